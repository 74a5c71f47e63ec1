"""A problem with a known answer: each method that claims to improve on its reference does.

No state, three modes of actions, and a critic that is given: quadratic, best at a point inside one
of the modes. What is tested is the policy side of every method, so nothing has to be learned about Q.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import LONG, tiny

from qgf_jax.core import networks
from qgf_jax.data.chunks import Dataset
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Spec

SPEC = Spec(state=(1,), action=2, chunk=1)
MODES = np.array([[-0.6, 0.0], [0.2, 0.6], [0.6, -0.4]], np.float32)
BEST = np.array([0.7, -0.3], np.float32)
SPREAD, SLOPE, SEEDS = 0.12, 5.0, 2


class Quadratic(nn.Module):
    """Q = -SLOPE * |action - BEST| ** 2, as a network of a critic's shape."""

    @nn.compact
    def __call__(self, obs, action):
        idle = self.param("idle", nn.initializers.zeros, ())
        return -SLOPE * jnp.sum((action - BEST) ** 2) + 0.0 * idle


class KnownCritic(networks.Networks):
    """The networks of a run, but for the critic."""

    critic = property(lambda self: Quadratic())


def q_of(action):
    return -SLOPE * ((action - BEST) ** 2).sum(axis=-1)


def bandit(n=6000):
    rng = np.random.default_rng(0)
    action = MODES[rng.integers(0, 3, n)] + rng.normal(0, SPREAD, (n, 2))
    action = np.clip(action, -1, 1).astype(np.float32)
    row = np.arange(n, dtype=np.int32)
    return Dataset(
        obs=np.zeros((n, 1), np.float32), action=action, row=row, next_row=row,
        weight=np.ones(n, np.float32), reward=q_of(action).astype(np.float32),
        discount=np.zeros(n, np.float32),
    )  # fmt: skip


# How strong each method is set, and the weight that it acts with.
SETTINGS = {
    "qgf": 0.3, "qgf_jacobian": 0.3, "qgf_chain": 0.3, "qgf_regularized": 0.3, "qgf_smooth": 0.3,
    "qgf_ortho": 0.3, "jacobian_schedule": 0.3, "qgf_relative": 2.0, "qfql": 0.3, "bptt": 0.3,
    "grad_step": 0.03, "qgf_distill": 0.3, "qgf_jacobian_distill": 0.3, "robust_q": 0.3, "agf": 0.3,
    "cfgrl": 2.0, "qpilots_u": 1.0, "cgql": 0.01, "cgql_mse": 0.1, "cgql_linex": 0.1,
    "qpilots_m": 1.0,
}  # fmt: skip
TRAINING = {
    "edp": {"policy.bc_weight": 3.0},
    "fql": {"policy.alpha": 10.0},
    "qam": {"policy.inverse_temperature": 1.0, "optimizer.clip_norm": 0.0},
    "qsm": {"policy.inverse_temperature": 1.0, "optimizer.clip_norm": 0.0},
    "qsm_bc": {"policy.inverse_temperature": 1.0, "policy.bc_weight": 1.0},
    "dac": {"policy.bc_weight": 2.0, "optimizer.clip_norm": 0.0},
    "fawac": {"policy.inverse_temperature": 1.0},
    "fbrac": {"policy.alpha": 3.0},
    "iql": {"policy.inverse_temperature": 1.0},
    "rebrac": {"policy.alpha": 0.3},
    "cgql_linex": {"optimizer.learning_rate": 1e-2, "train.batch_size": 256},
}


@pytest.fixture(scope="module")
def trained():
    """(config, params, target params with calibration) of one training, its seeds side by side."""

    @functools.cache
    def train(policies, settings):
        name = next(
            n
            for n, r in algorithms.METHODS.items()
            if (r.policies, str(r.settings)) == (policies, settings)
        )
        denoised = algorithms.METHODS[name].sampler == "denoised"
        config = tiny(
            name,
            **{
                "networks.policy_hidden": (32, 32),
                "networks.critic_hidden": (32, 32),
                "sampler.num_steps": 10 if denoised else 6,
                "train.batch_size": 64,
                "optimizer.learning_rate": 3e-3,
                "optimizer.tau": 0.02,
                **TRAINING.get(name, {}),
            },
        )
        trainer = Trainer.of(Builder(config, SPEC).learner(), config, SPEC)
        state, _ = trainer.run(
            trainer.init(np.arange(SEEDS)), jax.device_put(bandit()), 600 if denoised else 400
        )
        constants = {}
        if policies == algorithms.METHODS["qgf_relative"].policies:
            from qgf_jax.training import calibration as calibrate

            constants = {"calibration": calibrate.measure(config, SPEC, state, bandit())}
            constants["calibration"]["weights"] = {"near": jnp.full(SEEDS, 0.5)}
        return config, state.params, state.target_params | constants

    return train


@pytest.fixture(autouse=True)
def known_critic(monkeypatch):
    real = Builder.networks
    monkeypatch.setattr(Builder, "networks", lambda self: KnownCritic(**vars(real(self))))


def act(trained, name, best_of=1, count=200):
    row = algorithms.METHODS[name]
    config, params, target = trained(row.policies, str(row.settings))
    sample = Builder(config, SPEC).sample(name, best_of)
    keys = jax.random.split(jax.random.key(1), count)
    weight = jnp.float32(SETTINGS.get(name, 1.0))

    def one_seed(params, target):
        acting = algorithms.acting_params(params, target)
        return jax.vmap(lambda k: sample(acting, SPEC.example(), k, weight))(keys)

    return np.asarray(jax.jit(jax.vmap(one_seed))(params, target))  # [seeds, count, 2]


# Each differs from another row by a rule or a loss that has a closed form of its own elsewhere.
ALIKE = {"qgf_chain", "qgf_regularized", "qgf_smooth", "qgf_ortho", "jacobian_schedule", "ifql"}
ALIKE |= {
    "qgf_jacobian_distill",
    "cgql_mse",
    "cgql_linex",
    "qsm_bc",
    "agf",
    "seed_critic",
    "qpilots_m",
    "qgf_distill",
    "robust_q",
    "cfgrl",
    "edp",
    "qsm",
    "fawac",
    "dsrl",
}
NAMES = [
    n for n, r in algorithms.METHODS.items() if r.acts and not r.goals and (LONG or n not in ALIKE)
]


@pytest.mark.whole(but_every=6)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_improves_on_its_reference(name, trained):
    """By a margin on every seed; the reference itself is where the data are."""
    row = algorithms.METHODS[name]
    q = q_of(act(trained, name, row.best_of[0])).mean(axis=1)
    data = float(q_of(bandit().action).mean())
    if name == "reference":
        np.testing.assert_allclose(q, data, atol=1.0)
        return
    if "flow_bc" in row.policies:
        reference = q_of(act_with(trained, row, "reference")).mean(axis=1)
    else:
        reference = data
    assert np.all(q > reference + 1.5), (name, q, reference)


def act_with(trained, row, name, **options):
    """The actions of method `name` over the training of `row`."""
    return _acted(trained, row.policies, str(row.settings), name, **options)


@functools.cache  # many rows have one training, and each asks for its reference
def _acted(trained, policies, settings, name, **options):
    config, params, target = trained(policies, settings)
    sample = Builder(config, SPEC).sample(name, options=tuple(options.items()))
    keys = jax.random.split(jax.random.key(1), 200)

    def one_seed(params, target):
        acting = algorithms.acting_params(params, target)
        act = lambda k: sample(acting, SPEC.example(), k, jnp.float32(0))
        return jax.vmap(act)(keys)

    return np.asarray(jax.jit(jax.vmap(one_seed))(params, target))


def test_candidates_make_guided_actions_better_too(trained):
    one = q_of(act(trained, "qgf_jacobian")).mean(axis=1)
    best = q_of(act(trained, "qgf_jacobian", best_of=4)).mean(axis=1)
    assert np.all(best > one + 0.1)


@pytest.mark.whole
@pytest.mark.parametrize("name", ["dac", "qsm_bc"])
def test_public_chain_of_the_diffusion_is_far_worse_than_the_posterior(name, trained):
    row = algorithms.METHODS[name]
    ours = q_of(act_with(trained, row, name)).mean(axis=1)
    theirs = q_of(act_with(trained, row, name, posterior=False)).mean(axis=1)
    assert np.all(ours > theirs + 3.0)
