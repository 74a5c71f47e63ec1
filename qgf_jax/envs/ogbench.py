"""OGBench's names, and its environments made to repeat. No JAX; the simulator loads on first use."""

import contextlib
import os
import random
import re
from collections.abc import Generator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from qgf_jax.errors import UserError, unknown

DEFAULT_TASKS = {"antsoccer": 4, "cube": 2, "scene": 2, "puzzle-3x3": 4, "puzzle-4x4": 4}
"""The task of a name without one; everything else has 1 or is in `default_task`."""


class Name(NamedTuple):
    """The parts of a name such as pointmaze-medium-navigate-singletask-task1-v0."""

    scene: str
    """pointmaze-medium"""
    kind: str
    """navigate: how the data was collected"""
    task: int
    """1 … 5"""
    version: str

    @property
    def dataset(self) -> str:
        """The name of the npz file, which serves all tasks."""
        return f"{self.scene}-{self.kind}-{self.version}"

    @property
    def env_id(self) -> str:
        """What Gymnasium knows the single-task environment as."""
        return f"{self.scene}-singletask-task{self.task}-{self.version}"

    @property
    def full(self) -> str:
        """The whole name, its task spelled out."""
        return f"{self.scene}-{self.kind}-singletask-task{self.task}-{self.version}"

    def with_task(self, task: int) -> "Name":
        """The same environment and data with another task."""
        if not 1 <= task <= 5:
            raise UserError(f"{self.scene} has tasks 1 to 5, not {task}")
        return self._replace(task=task)


def default_task(scene: str) -> int:
    """The task that OGBench takes where a name says none."""
    for prefix, task in DEFAULT_TASKS.items():
        if scene.startswith(prefix):
            return task
    return 2 if scene.startswith("puzzle") else 1


def parse(name: str) -> Name:
    """Takes a single-task name apart, with or without its task."""
    found = re.fullmatch(r"(.+)-([a-z]+)-singletask(?:-task(\d+))?-(v\d+)", name)
    if not found:
        raise UserError(
            f"environment {name!r} is not of the form SCENE-KIND-singletask[-taskN]-v0, "
            "such as cube-single-play-singletask-task2-v0"
        )
    scene, kind, task, version = found.groups()
    return Name(scene, kind, 1, version).with_task(int(task) if task else default_task(scene))


def make(env_id: str, **options: Any) -> Any:
    """`gymnasium.make` of an OGBench id. Raises `UserError` with the nearest id."""
    # Unless told otherwise before its import, MuJoCo looks for a screen and without one takes the
    # process down. Whoever renders sets MUJOCO_GL=egl first.
    os.environ.setdefault("MUJOCO_GL", "disable")
    import gymnasium
    import ogbench  # noqa: F401  (registers the environments)

    if env_id not in gymnasium.registry:
        ours = (i for i, s in gymnasium.registry.items() if "ogbench" in str(s.entry_point))
        raise unknown("environment", env_id, ours)
    return gymnasium.make(env_id, disable_env_checker=True, **options)


def reset(env: Any, seed: int, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Resets so that the initial state is a function of `seed` alone.

    OGBench draws from three places: the environment's generator, NumPy's global one (point mazes)
    and, for a few steps that settle the scene, from an action space made on the spot and never
    seeded. All three are tied to `seed`. NumPy's global generator stays so, for what the
    environment draws from it later.
    """
    random.seed(seed)
    np.random.seed(seed)
    with _seeded_action_spaces(seed):
        return env.reset(seed=seed, **options)


@contextlib.contextmanager
def _seeded_action_spaces(seed: int) -> Generator[None]:
    from gymnasium.spaces import Box

    generator = np.random.default_rng(seed)

    def sample(box: Any, *_: Any, **__: Any) -> np.ndarray:
        return generator.uniform(box.low, box.high).astype(box.dtype)

    with mock.patch.object(Box, "sample", sample):
        yield


def goal_position(env: Any) -> list[float] | None:
    """The goal [x, y] of a maze that has been reset, else None."""
    goal = getattr(env.unwrapped, "cur_goal_xy", None)
    return None if goal is None else [float(x) for x in goal]
