"""Episodes repeat: in any order, slot, and number of processes."""

import numpy as np
import pytest

from qgf_jax.envs import ogbench
from qgf_jax.envs.families import EnvName
from qgf_jax.envs.pool import EnvPool
from qgf_jax.errors import UserError

SEEDS = (3, 4, 5)
STEPS = 12


def actions_of(seed, width):
    return np.random.default_rng(seed).uniform(-1, 1, (STEPS, width)).astype(np.float32)


def play_all(name, order, slots, workers):
    """{seed: (first observation, observations after each chunk of 4, rewards)}."""
    found, queue = {}, list(order)
    with EnvPool(name, slots, workers) as pool:
        while queue:
            seeds, queue = queue[:slots], queue[slots:]
            places = list(range(len(seeds)))
            first = pool.reset(places, seeds)
            trace = [first]
            rewards = np.zeros(len(seeds))
            chunks = np.stack([actions_of(s, pool.action_dim) for s in seeds])
            for k in range(0, STEPS, 4):
                obs, played = pool.step(places, chunks[:, k : k + 4])
                trace.append(obs)
                rewards += [p.reward for p in played]
            for i, seed in enumerate(seeds):
                found[seed] = (np.stack([t[i] for t in trace]), rewards[i])
    return found


@pytest.mark.whole(but_every=3)
@pytest.mark.parametrize(
    "name",
    [
        "pointmaze-medium-navigate-singletask-task1-v0",
        "pointmaze-teleport-navigate-singletask-task1-v0",
        "cube-single-play-singletask-task2-v0",
        "Hopper-v5",
        "Pendulum-v1",
    ],
)
def test_episode_is_a_function_of_its_seed_and_actions(name):
    reference = play_all(name, SEEDS, slots=1, workers=1)
    for order, slots, workers in (((5, 3, 4), 2, 1), ((4, 5, 3), 3, 2)):
        again = play_all(name, order, slots, workers)
        for seed in SEEDS:
            np.testing.assert_array_equal(again[seed][0], reference[seed][0])
            assert again[seed][1] == reference[seed][1]
    assert not np.array_equal(reference[3][0][0], reference[4][0][0])  # seeds do differ


def test_chunk_stops_where_the_episode_does():
    with EnvPool("pointmaze-medium-navigate-singletask-task1-v0", 1, 1) as pool:
        pool.reset([0], [0])
        chunks = np.zeros((1, 700, 2), np.float32)
        _, first = pool.step([0], chunks)
        _, second = pool.step([0], chunks)
    assert (first[0].steps, first[0].done) == (700, False)
    assert (second[0].steps, second[0].done, second[0].success) == (300, True, 0.0)
    assert second[0].reward == -300.0


def test_names_are_taken_apart():
    name = EnvName.parse("cube-triple-play-singletask-task3-v0")
    assert (name.scene, name.kind, name.task) == ("cube-triple", "play", 3)
    assert name.dataset == "cube-triple-play-v0"
    assert name.env_id == "cube-triple-singletask-task3-v0"
    defaults = {"cube-single": 2, "scene": 2, "puzzle-3x3": 4, "puzzle-4x5": 2, "antmaze-large": 1}
    for scene, task in defaults.items():
        assert EnvName.parse(f"{scene}-play-singletask-v0").task == task


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: EnvName.parse("cube-v0"), "singletask"),
        (lambda: EnvName.parse("cube-single-play-task6-v0"), "tasks 1 to 5"),
        (lambda: EnvName.parse("cube-single-play-singletask-task6-v0"), "tasks 1 to 5"),
        (
            lambda: ogbench.FAMILY.gym("cube-singel-singletask-task1-v0"),
            "cube-single-singletask-task1-v0",
        ),
    ],
)
def test_wrong_names_are_explained(call, hint):
    with pytest.raises(UserError, match=hint):
        call()
