"""Chunks and n-step returns, settled once on the host. No JAX here.

`prepare` turns a file's rows into a `Dataset`, which `sampling` gathers from on the device;
`prepare_goals` into a `GoalDataset`, whose returns depend on goals and are settled in `goals`. The
definitions are those of the public QGF sampler: a start is uniform over all transitions but
the last chunk - 1, chunks may run over the end of a trajectory and then weigh 0, and nothing of
the future counts beyond that end.
"""

from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.formats import Rows
from qgf_jax.errors import UserError


class Dataset(NamedTuple):
    """A dataset on the device: N transitions in R = N + (number of trajectories) rows.

    The observation after a transition is the next row, so none is stored twice.
    """

    obs: np.ndarray
    """[R, …], the state of every row of every trajectory"""
    action: np.ndarray
    """[N, A]"""
    row: np.ndarray
    """[N] int32, the row of a transition's observation"""
    next_row: np.ndarray
    """[N] int32, the row after the return, or the trajectory's last if that comes first"""
    weight: np.ndarray
    """[N], 0 where the return runs over the end of its trajectory, else 1"""
    reward: np.ndarray
    """[N], discounted sum over the return that starts here"""
    discount: np.ndarray
    """[N], gamma ** steps, or 0 where the future must not be bootstrapped"""
    actor_weight: np.ndarray | None = None
    """[N], 0 where the chunk runs over the end; only where it is not as long as the return"""


class GoalDataset(NamedTuple):
    """A dataset on the device: N transitions in R = N + (number of trajectories) rows."""

    obs: np.ndarray
    """[R, …], the state of every row of every trajectory"""
    action: np.ndarray
    """[N, A]"""
    row: np.ndarray
    """[N] int32, the row of a transition's observation"""
    end: np.ndarray
    """[N] int32, the last row of its trajectory"""
    goal: np.ndarray | None = None
    """[R, …], what a row is as a goal, where that is not its state"""


def room(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that nobody has filled, placed so that JAX on a CPU takes it as it is, uncopied."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + _LINE, np.uint8)
    begins = -raw.ctypes.data % _LINE
    return raw[begins : begins + size].view(dtype).reshape(shape)


_LINE = 64


def starts_of(dataset: Any, steps: int, blocks: int = 1) -> int:
    """How many transitions have `steps` in a row from them on, ends of trajectories regardless.

    `blocks`: how many of one shape the dataset is made of, none of which a row runs out of.
    """
    return len(dataset.action) - blocks * (steps - 1)


def nth_start(dataset: Any, i: Any, steps: int, blocks: int = 1) -> Any:
    """The transition that is start number `i` of those."""
    if blocks == 1:
        return i
    return i + i // (starts_of(dataset, steps, blocks) // blocks) * (steps - 1)


def rows_at(array: Any, index: Any) -> Any:
    """`array[index]` on the device, every index in bounds by construction.

    Saying so spares a comparison per number.
    """
    return array.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def prepare(
    rows: Rows,
    rewards: np.ndarray,
    masks: np.ndarray,
    *,
    chunk: int,
    discount: float,
    n_step: int = 0,
    action_clip: float | None = 1e-5,
) -> Dataset:
    """Settles time: `rewards` and `masks` are [R], one per row, `masks` 0 where success ends it all.

    A return has `n_step` steps; 0: as many as a chunk. Actions are clipped to
    [-1 + action_clip, 1 - action_clip]; `None` leaves them.
    """
    keep = ~rows.ends  # a trajectory's last row has no successor and is no transition
    row = np.flatnonzero(keep).astype(np.int32)
    n, n_step = len(row), n_step or chunk
    ends = np.flatnonzero(rows.ends)
    left = (ends[np.searchsorted(ends, row)] - row).astype(np.int32)  # transitions, this one too
    reward, mask = np.zeros(n), np.ones(n)
    rewards, masks = (np.asarray(x, np.float32)[keep] for x in (rewards, masks))
    for j in range(min(n_step, n)):
        here, inside = slice(0, n - j), left[: n - j] > j
        # Products in float32 and their sum in float64: the public sampler's bits.
        reward[here] += np.where(inside, np.float32(discount**j) * rewards[j:], np.float32(0))
        np.minimum(mask[here], masks[j:], out=mask[here], where=inside)
    return Dataset(
        obs=rows.observations,
        action=_clipped(rows.actions[keep], action_clip),
        row=row,
        next_row=row + np.minimum(left, n_step),
        weight=(left >= n_step).astype(np.float32),
        reward=reward.astype(np.float32),
        discount=(discount**n_step * mask).astype(np.float32),
        actor_weight=None if n_step == chunk else (left >= chunk).astype(np.float32),
    )


def prepare_goals(
    rows: Rows, goal: np.ndarray | None, *, action_clip: float | None = 1e-5
) -> GoalDataset:
    """`goal` [R, G] where goals are not observations. Actions are clipped as in `prepare`."""
    row = np.flatnonzero(~rows.ends).astype(np.int32)
    ends = np.flatnonzero(rows.ends).astype(np.int32)
    actions = _clipped(rows.actions[row], action_clip)
    return GoalDataset(rows.observations, actions, row, ends[np.searchsorted(ends, row)], goal)


def _clipped(actions: np.ndarray, by: float | None) -> np.ndarray:
    """In place: what comes is fresh."""
    return actions if by is None else np.clip(actions, -1.0 + by, 1.0 - by, out=actions)


def cut(total: int, n: int, size: int = 0) -> tuple[np.ndarray, int]:
    """Where `n` blocks of equal size begin so that they cover `total` starts, and that size.

    Only the last ones overlap, by less than `n` starts in all, unless `size` says how large they are.
    """
    size = size or -(-total // n)
    return np.minimum(np.arange(n) * size, total - size), size


def _block(dataset: Any, first: int, starts: int, steps: int, rows: int = 0) -> Any:
    """The `starts` starts from `first` on, as a `Dataset` or `GoalDataset` by itself.

    It has `starts` + `steps` - 1 transitions and `rows` rows, by default as many as they need; where
    these are more, they are neighbours' rows. Large arrays are views, not copies. With goals it
    reaches to the end of its last trajectory, and random goals are transitions of its own.
    """
    stop = first + starts + steps - 1
    rows = rows or _rows_of_block(dataset, first, starts, steps)
    base = min(int(dataset.row[first]), len(dataset.obs) - rows)
    changes = {}
    for name, array in dataset._asdict().items():
        if array is None:
            continue
        if name in OF_ROWS:
            changes[name] = array[base : base + rows]
        elif name in ROW_NUMBERS:  # those past the last start may point out of the block
            changes[name] = np.minimum(array[first:stop] - np.int32(base), np.int32(rows - 1))
        else:
            changes[name] = array[first:stop]
    return dataset._replace(**changes)


def _rows_of_block(dataset: Any, first: int, starts: int, steps: int) -> int:
    """How many rows a block needs."""
    last = first + starts + steps - 2
    end = dataset.end[last] if isinstance(dataset, GoalDataset) else dataset.row[last] + 1
    return int(end - dataset.row[first]) + 1


def split(dataset: Any, n: int, steps: int) -> list[Any]:
    """`n` blocks of one shape that together have every start; see `cut` and `block`.

    Raises `UserError` if there are fewer starts than blocks.
    """
    if n == 1:
        return [dataset]
    total = starts_of(dataset, steps)
    if total < n:
        raise UserError(f"the dataset has {total} starts, which do not make {n} parts: use fewer")
    firsts, size = cut(total, n)
    rows = max(_rows_of_block(dataset, first, size, steps) for first in firsts)
    return [_block(dataset, int(first), size, steps, rows) for first in firsts]


OF_ROWS, ROW_NUMBERS = ("obs", "goal"), ("row", "next_row", "end")
"""Fields with one entry per row, and fields that hold numbers of rows; all others are [N]."""


def trajectory_masks(ends: np.ndarray) -> np.ndarray:
    """[R]: 0 on a trajectory's last transition, as the public code does on its 100M-row path."""
    return 1.0 - np.append(ends[1:], True).astype(np.float32)
