"""An environment with tasks or goals, as the rest of this package knows environments. No JAX."""

import contextlib
import random
from collections.abc import Generator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np

from qgf_jax.envs.families import EnvName


class TaskEnv:
    """The environment of a name, seeded; where it has goals, they are the end of an observation."""

    def __init__(self, name: EnvName, env: Any, state: Sequence[str]):
        """`env` as Gymnasium has it; `state`: the columns of data that its `set_state` takes."""
        self.name, self.env = name, env
        self._state = state
        self.width = int(np.prod(self.env.observation_space.shape))
        """Of an observation without its goal."""
        self.action_dim = int(np.prod(self.env.action_space.shape))
        self._goal = np.zeros(0)

    @staticmethod
    def reset_by_seed(env: Any, seed: int, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets a Gymnasium environment so that the initial state is a function of `seed` alone.

        The benchmark draws from three places: the environment's generator, NumPy's global one (point
        mazes) and, for a few steps that settle the scene, from an action space made on the spot and
        never seeded. All three are tied to `seed`. NumPy's global generator stays so, for what the
        environment draws from it later.
        """
        random.seed(seed)
        np.random.seed(seed)
        with _seeded_action_spaces(seed):
            return env.reset(seed=seed, **options)

    def reset(self, seed: int) -> np.ndarray:
        """First observation of the episode `seed`. The name must say the task."""
        if not self.name.goals:
            return self.reset_by_seed(self.env, seed)[0]
        obs, info = self.reset_by_seed(self.env, seed, options={"task_id": self.name.task})
        self._goal = np.asarray(info["goal"])
        return np.concatenate([obs, self._goal])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        """(observation, reward, whether the episode is over, info)."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        obs = np.concatenate([obs, self._goal]) if self.name.goals else obs
        return obs, float(reward), bool(terminated or truncated), info

    def set_state(self, columns: Mapping[str, np.ndarray]) -> bool:
        """Puts the simulator into the state that these columns have; false if one of them is missing."""
        if not columns.keys() >= {*self._state}:
            return False
        self.env.unwrapped.set_state(*(columns[key].copy() for key in self._state))
        return True

    def goal_position(self) -> list[float] | None:
        """The goal [x, y] of a maze that has been reset, else None."""
        goal = getattr(self.env.unwrapped, "cur_goal_xy", None)
        return None if goal is None else [float(x) for x in goal]

    def render(self) -> np.ndarray:
        """A picture [h, w, 3], if the environment was made with a `render_mode`."""
        return np.asarray(self.env.render())


@contextlib.contextmanager
def _seeded_action_spaces(seed: int) -> Generator[None]:
    from gymnasium.spaces import Box

    generator = np.random.default_rng(seed)

    def sample(box: Any, *_: Any, **__: Any) -> np.ndarray:
        return generator.uniform(box.low, box.high).astype(box.dtype)

    with mock.patch.object(Box, "sample", sample):
        yield
