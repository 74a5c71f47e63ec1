"""Episodes one after another, a row a step: D4RL, replay buffers, and arrays of your own."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.readers.recording import Episode
from qgf_jax.errors import UserError

ENDS = ("terminated", "truncated")
"""Columns that say whether a step ended the task, or its episode."""
_AXES = {"observations": 2, "actions": 2, "next_observations": 2}
_AXES |= dict.fromkeys(("rewards", *ENDS), 1)


class Steps(NamedTuple):
    """T steps of all episodes. The columns may be arrays, or anything that `read` gives rows of."""

    place: str
    """Where they lie, for messages."""
    columns: Mapping[str, Any]
    """`observations` [T, O] before and `actions` [T, A] of each step; perhaps `rewards` [T] and
    `next_observations` [T, O], after it; all others are further columns, [T, …]"""
    terminated: np.ndarray
    """[T] bool, whether the step ended the task."""
    ended: np.ndarray
    """[T] bool, whether the step ended an episode, by its task's end or by cutting it off."""
    read: Callable[[Any, int, int], np.ndarray] = lambda column, start, stop: column[start:stop]
    """(column, start, stop) -> rows [start, stop)"""

    @staticmethod
    def are_in(path: Path) -> bool:
        """Whether an npz file is of steps, if not a whole one: it has `terminated` or `truncated`."""
        try:
            with zipfile.ZipFile(path) as file:
                return not {*ENDS}.isdisjoint(name.removesuffix(".npy") for name in file.namelist())
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
            return False

    @classmethod
    def of(
        cls, place: str, columns: Mapping[str, Any], terminated: Any, cut: Any, **options: Any
    ) -> "Steps":
        """Checks lengths and flags; `terminated` and `cut` [T] are 0 or 1.

        Raises `UserError` if an array has no rows of its kind, if one is shorter than another, or if no
        episode ends anywhere.
        """
        arrays = {**columns, "terminated": terminated, "truncated": cut}
        for key, column in arrays.items():
            _check_array(place, key, column)
        rows = len(columns["observations"])
        for key, column in arrays.items():
            if len(column) != rows:
                raise UserError(f"{place}: {key} has {len(column)} rows, observations have {rows}")
        seen, after = columns["observations"], columns.get("next_observations")
        if after is not None and after.shape != seen.shape:
            raise UserError(
                f"{place}: next_observations has shape {after.shape}, observations {seen.shape}"
            )
        flags = []
        for key, flag in {"terminated": terminated, "truncated": cut}.items():
            bad = ~np.isin(flag, (0, 1))
            if bad.any():
                row = int(np.argmax(bad))
                raise UserError(f"{place}: {key} holds {flag[row]} in row {row}; it must be 0 or 1")
            flags.append(np.asarray(flag).astype(bool))
        if not rows:
            raise UserError(f"{place}: it has no rows")
        ended = flags[0] | flags[1]
        if not ended.any():
            raise UserError(f"{place}: no step ends an episode")
        return cls(place, columns, flags[0], ended, **options)

    def episodes(self) -> Iterator[Episode]:
        """All, one after another.

        The last step of an episode that was cut off is left out unless there is an observation after
        it. Steps after the last end are an episode that was still running: it was cut off.
        """
        last = np.flatnonzero(self.ended)
        stops = [*(last + 1)] + [len(self.ended)] * bool(last[-1] + 1 < len(self.ended))
        start = 0
        for stop in map(int, stops):
            yield self._episode(start, stop)
            start = stop

    def _episode(self, start: int, stop: int) -> Episode:
        info = {key: self.read(column, start, stop) for key, column in self.columns.items()}
        observations, actions = info.pop("observations"), info.pop("actions")
        rewards, following = info.pop("rewards", None), info.pop("next_observations", None)
        terminated = bool(self.terminated[stop - 1])
        if following is None:
            return Episode.without_final(
                observations, actions, rewards, info, terminated=terminated
            )
        self._check_order(observations, following, start)
        # Of further columns nothing is known after the last action.
        info = {key: np.concatenate([array, array[-1:]]) for key, array in info.items()}
        observations = np.concatenate([observations, following[-1:]])
        return Episode(observations, actions, rewards, terminated, info)

    def _check_order(self, observations: np.ndarray, following: np.ndarray, start: int) -> None:
        """Raises `UserError` unless the observation after a step is the next step's."""
        far = ~np.isclose(observations[1:], following[:-1], rtol=1e-4, atol=1e-6, equal_nan=True)
        far = far.reshape(len(far), -1).any(axis=1)
        if far.any():
            row = start + int(np.argmax(far))
            raise UserError(
                f"{self.place}: next_observations of row {row} is not the observation of row {row + 1}: "
                "rows are not in the order of time, or an end is missing there"
            )


def _check_array(place: str, key: str, array: Any) -> None:
    """Raises `UserError` unless it is plain numbers with as many axes as its name says, or any."""
    if array.dtype.kind not in "fiub":
        raise UserError(f"{place}: {key} has type {array.dtype}; it must be plain numbers")
    axes = _AXES.get(key)
    if array.shape and len(array.shape) == (axes or len(array.shape)):
        return
    what = {None: "a row for each step", 1: "1 axis"}.get(axes, f"{axes} axes")
    raise UserError(f"{place}: {key} has shape {array.shape}; it must have {what}")
