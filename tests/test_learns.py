"""A problem with a known best action: guided beats unguided, and by a margin."""

import jax
import jax.numpy as jnp
import numpy as np
from conftest import tiny

from qgf_jax import algorithms
from qgf_jax.data.chunks import Dataset
from qgf_jax.train import make_trainer
from qgf_jax.types import Spec

SPEC = Spec(obs_dim=1, action_dim=2, chunk=1)


def bandit(n=4000):
    """One step: actions from two clusters, reward highest between the better one and (0.8, 0.3)."""
    rng = np.random.default_rng(0)
    side = np.where(rng.uniform(size=(n, 1)) < 0.5, -1.0, 1.0)
    action = np.clip(0.5 * side * np.array([1.0, 0.0]) + rng.normal(0, 0.15, (n, 2)), -1, 1)
    row = np.arange(n, dtype=np.int32)
    return Dataset(
        obs=rng.uniform(-1, 1, (n, 1)).astype(np.float32),
        action=action.astype(np.float32),
        row=row,
        next_row=row,
        weight=np.ones(n, np.float32),
        reward=reward_of(action).astype(np.float32),
        discount=np.zeros(n, np.float32),
    )


def reward_of(action):
    return -((action - np.array([0.8, 0.3])) ** 2).sum(axis=-1)


def test_guidance_finds_better_actions_than_the_data_and_best_of_n_than_the_reference():
    config = tiny(
        **{
            "networks.policy_hidden": (32, 32),
            "networks.critic_hidden": (32, 32),
            "sampler.num_steps": 10,
            "train.batch_size": 128,
            "optimizer.learning_rate": 2e-3,
        }
    )
    trainer = make_trainer(algorithms.build_learner(config, SPEC), config, SPEC)
    state, _ = trainer.run(trainer.init(np.array([0])), jax.device_put(bandit()), 1500)
    params, target = jax.tree.map(lambda x: x[0], (state.params, state.target_params))
    keys = jax.random.split(jax.random.key(1), 300)
    obs = jnp.linspace(-1, 1, 300)[:, None]

    def actions(method, weight, n=1):
        sample = algorithms.build_sample(config, SPEC, method, n)
        batch = jax.vmap(sample, in_axes=(None, None, 0, 0, None))
        return np.asarray(jax.jit(batch)(params, target, obs, keys, jnp.float32(weight)))

    reference = actions("reference", 0.0)
    data = bandit().action
    # The flow has learned both clusters and their spread.
    np.testing.assert_allclose(reference.mean(axis=0), data.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(reference.std(axis=0), data.std(axis=0), atol=0.1)
    rewards = {
        "reference": reward_of(reference).mean(),
        "best_of": reward_of(actions("best_of", 0.0, 4)).mean(),
        "qgf": reward_of(actions("qgf", 1.0)).mean(),
    }
    assert rewards["best_of"] > rewards["reference"] + 0.5, rewards
    assert rewards["qgf"] > rewards["reference"] + 0.5, rewards
