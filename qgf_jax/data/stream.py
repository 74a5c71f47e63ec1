"""A dataset on disk as an endless sequence of blocks, for data that do not fit a device. No JAX.

Blocks come in a random order, a new one each round, which depends on seed and round alone; in packed
slices, the order is random over slices and then over the blocks of a slice. A window holds some blocks;
every so many steps the next block replaces the oldest. So the content of the window is a function of
seed and step, and the position of a run needs no record.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.data.formats import Rows
from qgf_jax.data.shards import Source
from qgf_jax.errors import UserError, log


class Stream:
    """Blocks of one shape. One thread reads one block at a time.

    `prepare` makes a dataset of rows, the last of which counts as an end. With `goals` a block extends
    to the end of its last trajectory. A start needs `steps` transitions.
    """

    def __init__(
        self,
        source: Source,
        prepare: Callable[[Rows], Any],
        config: Mapping[str, Any],
        *,
        steps: int,
        goals: bool,
    ):
        options = config["data"]
        self._source, self._prepare, self._goals = source, prepare, goals
        self._by_slice, self._seed = options["schedule"] == "slices", config["seed"]
        starts = _starts_of_parts(source, steps, apart=self._by_slice or not source.seekable)
        self.starts = _block_size(source.path, starts, 0 if self._by_slice else options["block"])
        """Starts in a block."""
        self._transitions = self.starts + steps - 1
        firsts = _firsts(starts, self.starts, every_start=not self._by_slice)
        self.firsts = np.concatenate(firsts)
        """The first transition of each block."""
        bounds = np.cumsum([len(some) for some in firsts])[:-1]
        self._parts = np.split(np.arange(len(self.firsts)), bounds)
        self._rows = max(stop - start for start, stop in map(self._span, range(len(self))))
        self._largest_window = 1 if self._by_slice else options["window"]
        self._every = options["replace_every"] or 1000 * self._by_slice
        self._batch_size = config["train"]["batch_size"]
        self.divide(1)
        # The public code counts steps from 1 and changes slices before the step that 1000 divides.
        self._lead = int(self._by_slice)

    def divide(self, devices: int) -> None:
        """Deals the blocks to so many devices, each of which draws an equal part of a batch."""
        self.window = max(1, min(self._largest_window, len(self) // devices))
        """Blocks in the window of each device."""
        self.every = 0
        """Steps between two changes of the window; 0: there are none."""
        if len(self) not in (1, devices * self.window):
            self.every = self._every or _replace_every(self.starts * devices, self._batch_size)

    def __len__(self) -> int:
        return len(self.firsts)

    def turn(self, step: int) -> int:
        """How often the window has changed when update number `step`, from 0, draws its batch."""
        return (step + self._lead) // self.every if self.every else 0

    def until(self, step: int) -> int | None:
        """The first step after `step` with another window; `None` if there is none."""
        return (self.turn(step) + 1) * self.every - self._lead if self.every else None

    def at(self, place: int) -> int:
        """Which block is at `place` of the endless sequence."""
        if self._by_slice:
            return place % len(self)
        turn, i = divmod(place, len(self))
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, turn]))
        # The blocks of a slice one after another, where reading one means to unpack it.
        parts = [self._parts[part] for part in rng.permutation(len(self._parts))]
        return int(np.concatenate([rng.permutation(part) for part in parts])[i])

    def read(self, index: int) -> Any:
        """Reads, labels and chunks block number `index`: a dataset by itself."""
        start, stop = self._span(index)
        slices = self._source.slices[-1:] if self._source.seekable else self._source.slices
        end = slices[np.searchsorted(slices, start, "right")]
        # Rows that no start reaches make it as long as the others, as far as the data go.
        stop = max(stop, min(start + self._rows, int(end)))
        block = self._prepare(self._source.read(start, stop))
        return block.resized(self._rows, self._transitions)

    def _span(self, index: int) -> tuple[int, int]:
        """The rows of a block, [start, stop)."""
        first = int(self.firsts[index])
        start, _ = _row_of(self._source.ends, first)
        last, end = _row_of(self._source.ends, first + self._transitions - 1)
        return start, (end if self._goals else last + 1) + 1


def _row_of(ends: np.ndarray, transition: int) -> tuple[int, int]:
    """The row of a transition, and the last row of its trajectory."""
    before = int(np.searchsorted(ends - np.arange(len(ends)), transition, "right"))
    return transition + before, int(ends[before])


def _starts_of_parts(source: Source, steps: int, *, apart: bool) -> list[tuple[int, int]]:
    """(first transition, starts) of the parts that blocks are cut from: slices, or all as one."""
    rows = source.slices if apart else source.slices[[0, -1]]
    before = [int(row - np.searchsorted(source.ends, row)) for row in rows]
    parts = [(a, b - a - steps + 1) for a, b in pairwise(before)]
    if (least := min(n for _, n in parts)) < 1:
        raise UserError(
            f"{source.path}: a slice has fewer than {steps} transitions ({least + steps - 1}): "
            "join it with another one"
        )
    return parts


def _block_size(path: Path, parts: list[tuple[int, int]], most: int) -> int:
    """Starts in a block: at most `most`, such that blocks divide a part evenly.

    Never more than the smallest part has, and exactly that many if `most` is 0.
    """
    least, largest = min(n for _, n in parts), max(n for _, n in parts)
    if not most:
        if least < largest:
            log(f"qgf: warning: {path}: of longer slices the starts after {least} are left out")
        return least
    equal = max(-(-n // -(-n // most)) for _, n in parts)
    if least < equal:
        log(
            f"qgf: warning: {path}: its shortest slice has {least} starts, so no block has more than "
            "that: `qgf convert` it, or join slices"
        )
    return min(least, equal)


def _firsts(parts: list[tuple[int, int]], size: int, *, every_start: bool) -> list[np.ndarray]:
    """The first transitions of all blocks, by part."""
    counts = [-(-starts // size) if every_start else 1 for _, starts in parts]
    return [
        first + np.minimum(np.arange(n) * size, starts - size)  # the last one may overlap
        for (first, starts), n in zip(parts, counts, strict=True)
    ]


def _replace_every(starts: int, batch_size: int) -> int:
    """Steps between changes, such that each start is drawn about `_VISITS` times a round.

    A multiple or a divisor of 100: dispatches are cut where the window changes, and each new length of a
    dispatch is compiled.
    """
    steps = _VISITS * starts / batch_size
    if steps > 75:
        return 100 * max(1, round(steps / 100))
    return min((1, 2, 4, 5, 10, 20, 25, 50), key=lambda n: abs(n - steps))


_VISITS = 2.0
