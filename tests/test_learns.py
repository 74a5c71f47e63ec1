"""Guided beats unguided, by a margin: with a known best action, and in a maze from data to success."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import LONG, tiny
from scipy.sparse.csgraph import shortest_path

from qgf_jax.data.chunks import Dataset
from qgf_jax.envs.jax_pointmaze import PointMaze
from qgf_jax.evaluation import evaluate
from qgf_jax.evaluation.arms import Arm
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.runs.files import Lines
from qgf_jax.training.loop import pretrain
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Obs, Spec

SPEC = Spec(state=(1,), action=2, chunk=1)


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


@pytest.mark.whole
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
    trainer = Trainer.of(Builder(config, SPEC).learner(), config, SPEC)
    state, _ = trainer.run(trainer.init(np.array([0])), jax.device_put(bandit()), 1500)
    params, target = jax.tree.map(lambda x: x[0], (state.params, state.target_params))
    keys = jax.random.split(jax.random.key(1), 300)
    obs = Obs(jnp.linspace(-1, 1, 300)[:, None])

    def actions(method, weight, n=1):
        sample = Builder(config, SPEC).sample(method, n)
        batch = jax.vmap(sample, in_axes=(None, 0, 0, None))
        acting = algorithms.acting_params(params, target)
        return np.asarray(jax.jit(batch)(acting, obs, keys, jnp.float32(weight)))

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


TASK = "pointmaze-medium-navigate-singletask-task1-v0"


def wander(maze, episodes, steps):
    """Positions and actions [episodes, steps, 2] on shortest ways between random cells, with noise."""
    free = np.argwhere(~maze._walls)
    near = np.abs(free[:, None] - free).sum(axis=2) == 1
    _, before = shortest_path(near, return_predecessors=True)
    onwards = jnp.asarray(np.where(before < 0, np.arange(len(free))[:, None], before).T)
    places = jnp.asarray(free[:, ::-1] * maze._unit - maze._offset, jnp.float32)

    def episode(key):
        key, first, then = jax.random.split(key, 3)
        at = jax.random.randint(first, (), 0, len(free))
        state = maze.reset(maze.draw(1, key))[0]._replace(xy=places[at])

        def step(carry, key):
            state, to = carry
            noise, another = jax.random.split(key)
            cell = jnp.argmin(jnp.linalg.norm(places - state.xy[None], axis=1))
            to = jnp.where(cell == to, jax.random.randint(another, (), 0, len(free)), to)
            ahead = places[onwards[cell, to]] - state.xy
            ahead /= jnp.linalg.norm(ahead) + 1e-6
            action = jnp.clip(ahead + 0.5 * jax.random.normal(noise, (2,)), -1, 1)
            return (maze.step(state, action)[0], to), (state.xy, action)

        return jax.lax.scan(step, (state, at), jax.random.split(then, steps))[1]

    keys = jax.random.split(jax.random.key(0), episodes)
    return map(np.asarray, jax.jit(jax.vmap(episode))(keys))


@pytest.mark.skipif(not LONG, reason="make reliability")
def test_a_policy_that_never_arrives_is_led_to_the_goal(tmp_path):
    """Data, training, guidance and episodes on the device: a maze whose wanderers go everywhere."""
    xy, action = wander(PointMaze(TASK), 150, 400)
    ends = np.zeros(xy.shape[:2], np.float32)
    ends[:, -1] = 1.0
    flat = {"observations": xy, "actions": action, "qpos": xy, "qvel": np.zeros_like(xy)}
    arrays = {name: array.reshape(-1, 2) for name, array in flat.items()}
    for twin in ("", "-val"):
        file = tmp_path / f"pointmaze-medium-navigate-v0{twin}.npz"
        np.savez(file, terminals=ends.ravel(), **arrays)
    config = tiny(
        **{
            "env": TASK,
            "data.dir": str(tmp_path),
            "data.chunk": 10,
            "networks.policy_hidden": (64, 64),
            "networks.critic_hidden": (64, 64),
            "sampler.num_steps": 10,
            "optimizer.learning_rate": 1e-3,
            "train.batch_size": 128,
            "train.steps": 30_000,
            "train.steps_per_dispatch": 500,
            "train.log_every": 5_000,
            "train.save_every": 30_000,
        }
    )
    run = pretrain(config, tmp_path / "run")
    sweep = Arm.sweep(["reference", "best_of", "qgf"], [3.0, 10.0])
    evaluate.evaluate(run, sweep, episodes=16, selection_episodes=0, envs=48, simulator="jax")
    by_arm = {}
    for line in Lines.read(run / "episodes.jsonl").records:
        by_arm.setdefault((line["method"], line["weight"]), []).append(line["success"])
    success = {arm: np.mean(values) for arm, values in by_arm.items()}
    assert success["reference", 0.0] < 0.1, success
    assert success["best_of", 0.0] > 0.6, success
    assert max(success["qgf", 3.0], success["qgf", 10.0]) > 0.6, success
