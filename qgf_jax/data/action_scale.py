"""The units of actions: those of the environment in files, those of the networks in training. No JAX.

An action of the environment's is shift + scale * u, where u is the networks'. With bounds, the box of
the environment's actions becomes [-1, 1].
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.formats import Rows
from qgf_jax.data.shards import Source
from qgf_jax.errors import UserError, log
from qgf_jax.types import Spec

_TOLERANCE = 1e-4
"""How far beyond its bounds an action may lie, in halves of their range."""
_QUANTILES = (0.01, 0.99)
_DRAWN = 10_000_000
"""Transitions that quantiles are taken of, at most."""


class ActionScale(NamedTuple):
    """How actions of the data become the networks'."""

    shift: np.ndarray
    """[A] float32, or empty: they are the same."""
    scale: np.ndarray
    """[A] float32, or empty."""
    low: np.ndarray | float
    """[A] or []: smaller actions are refused; infinite where any action may come."""
    high: np.ndarray | float
    clip: bool
    """Whether the networks' actions are kept in [-1, 1]."""

    @classmethod
    def of(
        cls, source: Source, options: Mapping[str, Any], bounds: tuple[Any, Any] | None
    ) -> "ActionScale":
        """By `data.action_scale` and `data.clip`; `options` is that section of a config.

        `bounds`: the least and the largest action [A] of the environment; `None`: [-1, 1]. Raises
        `UserError` if there are none where they are needed. Reads all actions for other scales.
        """
        kind, clip = options["action_scale"], options["clip"]
        clipped = clip == "box" or (clip == "auto" and kind == "bounds")
        if kind == "bounds":
            return cls._of_bounds(source, bounds, clip=clipped)
        log(f"data: reading all actions of {source.path} once, for data.action_scale={kind}")
        if kind == "std":
            shift, scale = _moments(source)
        else:
            low, high = _quantiles(source)
            shift, scale = (low + high) / 2, (high - low) / 2
        scale = np.where(scale > 1e-6 * np.maximum(1.0, np.abs(shift)), scale, 1.0)
        shift, scale = shift.astype(np.float32), scale.astype(np.float32)
        return cls(shift, scale, -np.inf, np.inf, clipped)

    @classmethod
    def _of_bounds(
        cls, source: Source, bounds: tuple[Any, Any] | None, *, clip: bool
    ) -> "ActionScale":
        none = np.zeros(0, np.float32)
        if bounds is None:
            return cls(none, none, -1.0, 1.0, clip)
        low, high = (np.asarray(bound, np.float64) for bound in bounds)
        if not np.isfinite([low, high]).all():
            raise UserError(
                f"{source.path}: its actions are not bounded on both sides: set "
                "data.action_scale=std or quantile"
            )
        if not (low < high).all():
            number = int(np.argmin(low < high))
            raise UserError(
                f"{source.path}: number {number} of the environment's action has the bounds "
                f"{low[number]:.4g} and {high[number]:.4g}, with nothing between them: set "
                "data.action_scale=std or quantile"
            )
        if (low == -1).all() and (high == 1).all():
            return cls(none, none, -1.0, 1.0, clip)
        shift, scale = (low + high) / 2, (high - low) / 2
        return cls(shift.astype(np.float32), scale.astype(np.float32), low, high, clip)

    def applied(self, source: Source) -> Source:
        """The source with the networks' actions. Reading raises `UserError` for one out of bounds."""
        return source._replace(read=lambda a, b: self._scaled(source.path, source.read(a, b), a))

    def _scaled(self, path: Path, rows: Rows, first: int) -> Rows:
        if np.isfinite(self.low).all():
            self._check(path, rows, first)
        if not self.scale.size:
            return rows
        return rows._replace(actions=(rows.actions - self.shift) / self.scale)

    def _check(self, path: Path, rows: Rows, first: int) -> None:
        """Raises `UserError` for an action out of bounds; `first` is the number of the first row."""
        if rows.actions.max() <= np.min(self.high) and rows.actions.min() >= np.max(self.low):
            return
        slack = _TOLERANCE * (np.asarray(self.high) - self.low) / 2
        far = (rows.actions > self.high + slack) | (rows.actions < self.low - slack)
        far[rows.ends] = False  # these actions are void
        if not far.any():
            return
        row, number = map(int, np.argwhere(far)[0])
        if not self.scale.size:
            raise UserError(
                f"{path}: actions leave [-1, 1] in row {first + row}: scale them, or set "
                "data.action_scale=std or quantile"
            )
        low, high = (
            np.broadcast_to(self.low, far.shape[1:]),
            np.broadcast_to(self.high, far.shape[1:]),
        )
        raise UserError(
            f"{path}: number {number} of the action in row {first + row} is "
            f"{rows.actions[row, number]:.4g}, "
            f"the environment takes {low[number]:.4g} to {high[number]:.4g}: these are another one's "
            "data, or set data.action_scale=std"
        )

    def into(self, spec: Spec) -> Spec:
        """The spec that records it."""
        shift, scale = (tuple(map(float, x)) for x in (self.shift, self.scale))
        return spec._replace(action_shift=shift, action_scale=scale, clip=self.clip)


def _actions(source: Source) -> Iterator[np.ndarray]:
    """[N, A] of one piece after another, none of them void."""
    for start, stop in pairwise(source.pieces()):
        rows = source.read(start, stop)
        yield rows.actions[~rows.ends].astype(np.float64)


def _moments(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [A] of all actions."""
    count, total, square = 0, np.zeros(()), np.zeros(())
    first = np.zeros(())
    for actions in _actions(source):
        first = first if count else actions[0]
        away = actions - first  # so that a large mean does not hide the spread
        count, total, square = count + len(away), total + away.sum(0), square + (away**2).sum(0)
    mean = total / count
    return mean + first, np.sqrt(np.maximum(square / count - mean**2, 0.0))


def _quantiles(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest percent [A] of all actions, or of evenly spaced ones."""
    step = -(-source.transitions // _DRAWN)
    low, high = np.quantile(
        np.concatenate([a[::step] for a in _actions(source)]), _QUANTILES, axis=0
    )
    return low, high
