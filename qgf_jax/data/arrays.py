"""Data of your own, as arrays in memory. No JAX.

dataset = qgf_jax.Dataset.from_arrays(observations, actions, rewards, terminated, truncated)
qgf_jax.pretrain(config, "runs/mine", dataset)
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.formats import Rows
from qgf_jax.data.readers.recording import Episode, Recording
from qgf_jax.data.readers.steps import Steps
from qgf_jax.data.shards import Source
from qgf_jax.errors import UserError, said


class Dataset(NamedTuple):
    """Episodes in memory, from `from_arrays` or `from_episodes`."""

    recording: Recording

    @classmethod
    def from_arrays(
        cls,
        observations: Any,
        actions: Any,
        rewards: Any,
        terminated: Any,
        truncated: Any,
        next_observations: Any = None,
        *,
        bounds: tuple[Any, Any] | None = None,
        name: str = "arrays",
    ) -> "Dataset":
        """T steps of all episodes, one after another.

        `observations` [T, O] before each step, `actions` [T, A] in the environment's units, `rewards`
        [T]; `terminated` [T]: whether the step ended the task, `truncated` [T]: whether the episode was
        cut off there. Without `next_observations` [T, O] the last step of an episode that was cut off is
        left out, as nothing is known of what came after it. `bounds`: the least and the largest action,
        [A] or one number each, unless they are -1 and 1 or `config.env` says them. Raises `UserError`
        for arrays that do not fit.
        """
        columns = {"observations": observations, "actions": actions, "rewards": rewards}
        if next_observations is not None:
            columns["next_observations"] = next_observations
        ends = {"terminated": terminated, "truncated": truncated}
        arrays = {key: _array(name, key, column) for key, column in (columns | ends).items()}
        steps = Steps.of(name, arrays, *(arrays.pop(key) for key in ends))
        return cls._of(name, bounds, steps.episodes)

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Episode],
        *,
        bounds: tuple[Any, Any] | None = None,
        name: str = "episodes",
    ) -> "Dataset":
        """Of episodes, each with the observation after its last action; see `from_arrays`."""
        if not isinstance(episodes, Iterable):
            raise UserError(f"{name} are a {type(episodes).__name__}: give a list of `Episode`s")
        kept = [_episode(name, number, episode) for number, episode in enumerate(episodes)]
        return cls._of(name, bounds, lambda: iter(kept))

    @classmethod
    def _of(
        cls,
        name: str,
        bounds: tuple[Any, Any] | None,
        episodes: Callable[[], Iterator[Episode]],
    ) -> "Dataset":
        box = None if bounds is None else _box(name, bounds)
        return cls(Recording(name, name, {"format": "arrays"}, "", box, episodes))

    def source(self) -> Source:
        """All rows, as if read from a file. Raises `UserError` for what is wrong with them."""
        rows = Rows.joined([Rows.of_episode(episode) for episode in self.recording.checked()])
        width, bounds = rows.actions.shape[1], self.recording.bounds
        box = bounds and (np.broadcast_to(bounds[0], width), np.broadcast_to(bounds[1], width))
        digest = hashlib.sha256()
        for array in (*rows[:3], *(rows.info[key] for key in sorted(rows.info))):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return Source.of_rows(
            Path(self.recording.name),
            rows,
            digest.hexdigest(),
            self.recording._replace(bounds=box).described(),
        )


def _box(name: str, bounds: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = (np.asarray(bound) for bound in bounds)
        sound = {low.dtype.kind, high.dtype.kind} <= {*"fiu"} and bool((low < high).all())
    except (ValueError, TypeError):
        sound = False
    if not sound:
        raise UserError(
            f"{name}: bounds must be the least and the largest action, two numbers or arrays of "
            "numbers, the one below the other"
        )
    return low, high


def _episode(name: str, number: int, given: Any) -> Episode:
    """The episode with arrays, where it may have lists."""
    if not isinstance(given, Episode):
        raise UserError(
            f"{name}: episode {number} is a {type(given).__name__}: make it an `Episode`"
        )
    if not np.isscalar(given.terminated) or given.terminated not in (False, True):
        raise UserError(
            f"{name}: terminated of episode {number} must be one truth value for all of it"
        )
    return given._replace(
        observations=_array(name, "observations", given.observations),
        actions=_array(name, "actions", given.actions),
        rewards=None if given.rewards is None else _array(name, "rewards", given.rewards),
        info={key: _array(name, key, column) for key, column in given.info.items()},
    )


def _array(name: str, key: str, given: Any) -> np.ndarray:
    if np.ma.is_masked(given):
        raise UserError(f"{name}: {key} has masked entries: fill them or take their episodes out")
    try:
        return np.asarray(given)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}: {key} is no array of numbers ({said(error)})") from None
