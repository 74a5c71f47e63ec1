"""Chunks and n-step returns, settled once on the host. No JAX here.

`Dataset.of` makes of a file's rows what `sampling` gathers from on the device; `GoalDataset.of` what
`goals` gathers from, which settles returns, as they depend on goals. The definitions are those of the
public QGF sampler: a start is uniform over all transitions but the last chunk - 1, chunks may run over
the end of a trajectory and then weigh 0, and nothing of the future counts beyond that end.
"""

from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.formats import Rows, empty_array
from qgf_jax.errors import UserError


class _Transitions:
    """What datasets of both kinds do: count their starts, be cut into blocks, be made of pieces.

    N transitions in R = N + (number of trajectories) rows. The observation after a transition is the
    next row, so none is stored twice.
    """

    def count_starts(self: Any, steps: int, blocks: int = 1) -> int:
        """How many transitions have `steps` in a row from them on, ends of trajectories regardless.

        `blocks`: how many of one shape the dataset is made of, none of which a chunk runs out of.
        """
        return len(self.action) - blocks * (steps - 1)

    def nth_start(self: Any, i: Any, steps: int, blocks: int = 1) -> Any:
        """The transition that is start number `i` of those."""
        if blocks == 1:
            return i
        return i + i // (self.count_starts(steps, blocks) // blocks) * (steps - 1)

    def split(self: Any, n: int, steps: int) -> list[Any]:
        """`n` datasets of one shape that together have every start, of which few are in two.

        Large arrays are views, not copies. Raises `UserError` if there are fewer starts than `n`.
        """
        if n == 1:
            return [self]
        total = self.count_starts(steps)
        if total < n:
            raise UserError(
                f"the dataset has {total} starts, which do not make {n} parts: use fewer"
            )
        firsts, size = _cut(total, n)
        rows = max(self._rows_of_block(first, size, steps) for first in firsts)
        return [self._block(int(first), size, steps, rows) for first in firsts]

    def _block(self: Any, first: int, starts: int, steps: int, rows: int) -> Any:
        """The `starts` starts from `first` on, as a dataset by itself.

        It has `starts` + `steps` - 1 transitions and `rows` rows; where these are more than they need,
        they are neighbours' rows. With goals it reaches to the end of its last trajectory, and random
        goals are transitions of its own.
        """
        stop = first + starts + steps - 1
        base = min(int(self.row[first]), len(self.obs) - rows)
        changes = {}
        for name, array in self._filled():
            if name in _OF_ROWS:
                changes[name] = array[base : base + rows]
            elif name in _ROW_NUMBERS:  # those past the last start may point out of the block
                changes[name] = np.minimum(array[first:stop] - np.int32(base), np.int32(rows - 1))
            else:
                changes[name] = array[first:stop]
        return self._replace(**changes)

    def _rows_of_block(self: Any, first: int, starts: int, steps: int) -> int:
        """How many rows a block needs."""
        return int(self._last_row(first + starts + steps - 2) - self.row[first]) + 1

    def _filled(self: Any) -> list[tuple[str, Any]]:
        """(name, array) of the arrays that there are."""
        return [(name, array) for name, array in self._asdict().items() if array is not None]

    def empty(self: Any, rows: int, transitions: int) -> Any:
        """Arrays like these that nobody has filled, for so many rows and transitions."""
        lengths = {name: rows if name in _OF_ROWS else transitions for name in self._fields}
        return self._replace(
            **{
                name: empty_array((lengths[name], *array.shape[1:]), array.dtype)
                for name, array in self._filled()
            }
        )

    def put(self: Any, piece: Any, row: int, transition: int) -> None:
        """Copies a piece into this dataset, from a row and a transition on."""
        for name, array in piece.moved(np.int32(row))._filled():
            first = row if name in _OF_ROWS else transition
            getattr(self, name)[first : first + len(array)] = array

    def moved(self: Any, rows: Any) -> Any:
        """The dataset as it is within another one, where it begins with row number `rows`."""
        numbers = {n: array + rows for n, array in self._filled() if n in _ROW_NUMBERS}
        return self._replace(**numbers)

    def resized(self: Any, rows: int, transitions: int) -> Any:
        """With `rows` rows, the last of them repeated, and the first `transitions` transitions."""
        changes = {}
        for name, array in self._filled():
            if name not in _OF_ROWS:
                array = array[:transitions]
            elif short := rows - len(array):
                array = np.concatenate([array, np.repeat(array[-1:], short, axis=0)])
            changes[name] = array
        return self._replace(**changes)

    def count_bytes(self: Any, rows: int, transitions: int) -> int:
        """Bytes of a dataset of these types with so many rows and transitions."""
        return sum(
            array[:1].nbytes * (rows if name in _OF_ROWS else transitions)
            for name, array in self._filled()
        )


_OF_ROWS, _ROW_NUMBERS = ("obs", "goal"), ("row", "next_row", "end")
"""Arrays with one entry per row, and arrays that hold numbers of rows; all others are [N]."""


class _Arrays(NamedTuple):
    """The arrays of a `Dataset`."""

    obs: np.ndarray
    """[R, …], the state of every row of every trajectory; float16 if the data are"""
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


class Dataset(_Transitions, _Arrays):
    """A dataset whose returns are settled."""

    @classmethod
    def of(
        cls,
        rows: Rows,
        rewards: np.ndarray,
        masks: np.ndarray,
        *,
        chunk: int,
        discount: float,
        n_step: int = 0,
        action_clip: float | None = 1e-5,
    ) -> "Dataset":
        """Settles time: `rewards` and `masks` are [R], one per row, `masks` 0 where success ends it all.

        A return has `n_step` steps; 0: as many as a chunk. Actions are clipped to
        [-1 + action_clip, 1 - action_clip]; `None` leaves them.
        """
        keep = ~rows.ends  # a trajectory's last row has no successor and is no transition
        row = np.flatnonzero(keep).astype(np.int32)
        n, n_step = len(row), n_step or chunk
        ends = np.flatnonzero(rows.ends)
        left = (ends[np.searchsorted(ends, row)] - row).astype(
            np.int32
        )  # transitions, this one too
        reward, mask = np.zeros(n), np.ones(n)
        rewards, masks = (np.asarray(x, np.float32)[keep] for x in (rewards, masks))
        for j in range(min(n_step, n)):
            here, inside = slice(0, n - j), left[: n - j] > j
            # Products in float32 and their sum in float64: the public sampler's bits.
            reward[here] += np.where(inside, np.float32(discount**j) * rewards[j:], np.float32(0))
            np.minimum(mask[here], masks[j:], out=mask[here], where=inside)
        return cls(
            obs=rows.observations,
            action=_clipped(rows.actions[keep], action_clip),
            row=row,
            next_row=row + np.minimum(left, n_step),
            weight=(left >= n_step).astype(np.float32),
            reward=reward.astype(np.float32),
            discount=(discount**n_step * mask).astype(np.float32),
            actor_weight=None if n_step == chunk else (left >= chunk).astype(np.float32),
        )

    def _last_row(self, transition: int) -> int:
        """The last row that a block needs whose last transition this is."""
        return self.row[transition] + 1


class _GoalArrays(NamedTuple):
    """The arrays of a `GoalDataset`."""

    obs: np.ndarray
    """[R, …], the state of every row of every trajectory; float16 if the data are"""
    action: np.ndarray
    """[N, A]"""
    row: np.ndarray
    """[N] int32, the row of a transition's observation"""
    end: np.ndarray
    """[N] int32, the last row of its trajectory"""
    goal: np.ndarray | None = None
    """[R, …], what a row is as a goal, where that is not its state"""


class GoalDataset(_Transitions, _GoalArrays):
    """A dataset whose returns depend on the goals that are drawn."""

    @classmethod
    def of(
        cls, rows: Rows, goal: np.ndarray | None, *, action_clip: float | None = 1e-5
    ) -> "GoalDataset":
        """`goal` [R, …] where goals are not observations. Actions are clipped as in `Dataset.of`."""
        row = np.flatnonzero(~rows.ends).astype(np.int32)
        ends = np.flatnonzero(rows.ends).astype(np.int32)
        actions = _clipped(rows.actions[row], action_clip)
        return cls(rows.observations, actions, row, ends[np.searchsorted(ends, row)], goal)

    def _last_row(self, transition: int) -> int:
        """The last row that a block needs whose last transition this is."""
        return self.end[transition]


def _clipped(actions: np.ndarray, by: float | None) -> np.ndarray:
    """In place: what comes is fresh."""
    return actions if by is None else np.clip(actions, -1.0 + by, 1.0 - by, out=actions)


def _cut(total: int, n: int) -> tuple[np.ndarray, int]:
    """Where `n` blocks of equal size begin so that they cover `total` starts, and that size.

    Only the last ones overlap, by less than `n` starts in all.
    """
    size = -(-total // n)
    return np.minimum(np.arange(n) * size, total - size), size


def states_at(obs: Any, row: Any) -> Any:
    """`obs[row]` on the device, float32 where the data are float16: a dataset of half the memory."""
    found = rows_at(obs, row)
    return found.astype(np.float32) if found.dtype == np.float16 else found


def rows_at(array: Any, index: Any) -> Any:
    """`array[index]` on the device, every index in bounds by construction.

    Saying so spares a comparison per number.
    """
    return array.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
