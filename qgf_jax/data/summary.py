"""What a run's record and networks keep of data that are gone: statistics, slice by slice. No JAX."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.errors import UserError, log, log_once


class _Moments(NamedTuple):
    """Of an array [R, D], each but `count` [D], in float64."""

    count: int
    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray) -> "_Moments":
        """Takes a few columns at a time, as the deviations are a copy in float64."""
        columns = np.array_split(np.arange(array.shape[1]), -(-array.shape[1] // 8))
        parts = [array[:, c[0] : c[-1] + 1].std(axis=0, dtype=np.float64) for c in columns]
        mean = array.mean(axis=0, dtype=np.float64)
        wide = np.promote_types(array.dtype, np.float32)  # a range overflows float16
        ends = (end.astype(wide) for end in (array.min(axis=0), array.max(axis=0)))
        return cls(len(array), mean, np.concatenate(parts), *ends)

    def merge(self, other: "_Moments") -> "_Moments":
        """Of both arrays together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        share, apart = other.count / count, other.mean - self.mean
        within = (1 - share) * self.std**2 + share * other.std**2
        return _Moments(
            count,
            self.mean + share * apart,
            np.sqrt(within + share * (1 - share) * apart**2),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    def scale(self) -> np.ndarray:
        """[2, D], mean and standard deviation to normalise by; 1 for a dimension that hardly moves."""
        return np.stack([self.mean, np.where(self.still(), 1.0, self.std)])

    def still(self) -> np.ndarray:
        """[D], whether a dimension hardly moves."""
        return _is_still(self.std, self.low, self.high)


class Summary(NamedTuple):
    """Of some slices of a dataset."""

    observations: _Moments
    at_bounds: int
    """numbers of actions beyond 0.999, void ones left out"""
    actions: int
    """all numbers of actions"""
    goal: _Moments | None = None

    @classmethod
    def of(
        cls, observations: np.ndarray, actions: np.ndarray, goal: np.ndarray | None = None
    ) -> "Summary":
        """Of [R, O], of [N, A], none of them void, and of [R, G] where goals are not observations."""
        at_bounds = np.abs(actions) > 0.999
        goals = None if goal is None else _Moments.of(goal)
        return cls(_Moments.of(observations), int(at_bounds.sum()), at_bounds.size, goals)

    def merge(self, other: "Summary") -> "Summary":
        """Of both together."""
        goals = self.goal and other.goal and self.goal.merge(other.goal)
        return Summary(
            self.observations.merge(other.observations),
            self.at_bounds + other.at_bounds,
            self.actions + other.actions,
            goals,
        )

    def describe(self) -> dict[str, Any]:
        """What a run's record says of the numbers."""
        return {
            "obs_min": [float(x) for x in self.observations.low],
            "obs_max": [float(x) for x in self.observations.high],
            "actions_at_bounds": self.at_bounds / self.actions,
        }

    def record(self) -> dict[str, Any]:
        """As JSON; without goals, which are an environment's."""
        moments = {k: np.asarray(v).tolist() for k, v in self.observations._asdict().items()}
        return {"observations": moments, "at_bounds": self.at_bounds, "actions": self.actions}

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Summary":
        """What `record` gave."""
        found = dict(record["observations"])
        count = found.pop("count")
        of_rows = _Moments(count, **{key: np.array(value) for key, value in found.items()})
        return cls(of_rows, record["at_bounds"], record["actions"])

    def scale(self, *, goals: bool) -> np.ndarray:
        """[2, O], or [2, O + G] with `goals`: mean and standard deviation to normalise by.

        One line names the dimensions that hardly move, of which only the mean is subtracted.
        """
        seen = {"observation": self.observations}
        if goals:
            seen["goal"] = self.goal or self.observations
        for noun, moments in seen.items():
            if still := np.flatnonzero(moments.still()).tolist():
                log(
                    f"data: {_listed(noun, still)}: too little spread beside the size for "
                    "data.standardize, which subtracts the mean alone"
                )
        return np.concatenate([moments.scale() for moments in seen.values()], axis=1)

    @staticmethod
    def log_rounded(path: Path, observations: np.ndarray) -> None:
        """Says in one line which dimensions of `observations` [R, D] float32 cannot hold."""
        if observations.dtype.itemsize <= 4:
            return
        lost = []
        for i, column in enumerate(observations.T):
            low, high = column.min(), column.max()
            little = low < high and column.std() < _resolution(low, high)
            if little and (column != column.astype(np.float32)).any():
                lost.append(i)
        _say_rounded(path, lost)

    def check_alike(self, observations: np.ndarray, path: Path) -> None:
        """Raises `UserError` if `observations` [R, O] lie, on average, far from all of these.

        `path` is the file of validation data that they are from.
        """
        low, high = self.observations.low, self.observations.high
        mean = observations.mean(axis=0, dtype=np.float64)
        # A range on either side: a few short episodes may well be where the others were not.
        slack = high - low + 1e-4 * np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
        outside = np.flatnonzero((mean < low - slack) | (mean > high + slack))
        if outside.size:
            i = int(outside[0])
            raise UserError(
                f"{path}: the mean of observation {i} is {mean[i]:.4g}, training data have "
                f"{low[i]:.4g} to {high[i]:.4g}: this is another dataset's file"
            )


class Rounding:
    """Which dimensions of observations float32 cannot hold, where they come an episode at a time."""

    def __init__(self) -> None:
        self._low = self._high = np.zeros(0)
        self._moved = np.zeros(0, bool)
        """[D], whether rounding changes anything"""

    def add(self, observations: np.ndarray, rounded: np.ndarray) -> None:
        """Takes [R, D] and what becomes of it as float32."""
        if observations.dtype.itemsize <= 4 or observations.dtype.kind != "f":
            return
        low, high = observations.min(axis=0), observations.max(axis=0)
        moved = (observations != rounded).any(axis=0)
        first = not self._low.size
        self._low = low if first else np.minimum(self._low, low)
        self._high = high if first else np.maximum(self._high, high)
        self._moved = moved if first else self._moved | moved

    def log(self, place: object) -> None:
        """Says in one line which, if any: a spread is at most half of the range."""
        little = (self._low < self._high) & self._moved
        little &= (self._high - self._low) / 2 < _resolution(self._low, self._high)
        _say_rounded(place, np.flatnonzero(little).tolist())


def _say_rounded(place: object, lost: Sequence[int]) -> None:
    if lost:
        log_once(
            f"qgf: warning: {place}: {_listed('observation', lost)}: too little spread beside the "
            "size for float32, to which they are rounded: subtract a constant in the file"
        )


_STEPS = 128
"""of float32, at the largest magnitude of a dimension; a smaller spread is mostly rounding and noise"""

_LEAST = 1e-6
"""a smaller spread is a simulator's noise, whatever the magnitude"""


def _resolution(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The spread [D] that takes so many steps of float32 between `low` [D] and `high` [D]."""
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    return _STEPS * np.finfo(np.float32).eps * largest


def _is_still(std: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """[D], whether a dimension of standard deviation `std` [D] is not to be divided by it."""
    return std < np.maximum(_LEAST, _resolution(low, high))


def _listed(noun: str, numbers: Sequence[int]) -> str:
    """ "observations 3, 7 and 5 more"."""
    shown = ", ".join(str(n) for n in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{noun}{'s' if len(numbers) > 1 else ''} {shown}{more}"


_SHOWN = 10
