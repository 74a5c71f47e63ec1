"""What a run's record and networks keep of data that are gone: statistics, slice by slice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.formats import Rows
from qgf_jax.data.scale import is_still
from qgf_jax.errors import UserError


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
        return cls(len(array), mean, np.concatenate(parts), array.min(axis=0), array.max(axis=0))

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
        return is_still(self.std, self.low, self.high)


class Summary(NamedTuple):
    """Of some slices of a dataset."""

    observations: _Moments
    at_bounds: int
    """numbers of actions beyond 0.999, void ones left out"""
    actions: int
    """all numbers of actions"""
    goal: _Moments | None = None

    @classmethod
    def of(cls, rows: Rows, goal: np.ndarray | None = None) -> "Summary":
        """`goal` [R, G], where goals are not observations."""
        actions = np.abs(rows.actions[~rows.ends]) > 0.999
        goals = None if goal is None else _Moments.of(goal)
        return cls(_Moments.of(rows.observations), int(actions.sum()), actions.size, goals)

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


def describe_ends(ends: np.ndarray) -> dict[str, Any]:
    """What a run's record says of trajectories, by the numbers of their last rows."""
    lengths = np.diff(ends, prepend=-1)
    return {
        "trajectories": len(lengths),
        "rows_per_trajectory": [int(lengths.min()), int(lengths.max())],
    }


def check_alike(train: _Moments, mean: np.ndarray, path: Path) -> None:
    """Raises `UserError` if validation data lie, on average, far from all training data."""
    low, high = train.low, train.high
    # A range on either side: a few short episodes may well be where the others were not.
    slack = high - low + 1e-4 * np.maximum(1.0, np.maximum(np.abs(low), np.abs(high)))
    outside = np.flatnonzero((mean < low - slack) | (mean > high + slack))
    if outside.size:
        i = int(outside[0])
        raise UserError(
            f"{path}: the mean of observation {i} is {mean[i]:.4g}, training data have {low[i]:.4g} to "
            f"{high[i]:.4g}: this is another dataset's file"
        )
