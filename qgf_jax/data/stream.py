"""A dataset on disk as an endless row of blocks, for what does not fit a device. No JAX.

Blocks come in a random order, another one each time round, which is a function of seed and round
alone; of packed slices, in a random order of slices and then of blocks. A window holds some of them;
every so many steps the oldest makes room for the next. So what the window holds at a step is a
function of seed and step, and a run's position needs no record.
"""

import contextlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.data import chunks
from qgf_jax.data.formats import Rows
from qgf_jax.data.shards import Source
from qgf_jax.errors import UserError, log

_SHARE = 0.8
"""Of the memory that is there a resident dataset may take so much: states and programs need some."""


class Stream:
    """Blocks of one shape; one block is read at a time, by one thread.

    `prepare` makes a dataset of rows, the last of which counts as an end. With goals a block reaches
    to the end of its last trajectory.
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
        """how many a block has"""
        self._transitions = self.starts + steps - 1
        firsts = _firsts(starts, self.starts, every_start=not self._by_slice)
        self.firsts = np.concatenate(firsts)
        """the first transition of each block"""
        bounds = np.cumsum([len(some) for some in firsts])[:-1]
        self._parts = np.split(np.arange(len(self.firsts)), bounds)
        self._rows = max(stop - start for start, stop in map(self._span, range(len(self))))
        self._wanted = 1 if self._by_slice else options["window"]
        self._every = options["replace_every"] or 1000 * self._by_slice
        self._batch_size = config["train"]["batch_size"]
        self.spread(1)
        # The public code counts steps from 1 and changes slices before the step that 1000 divides.
        self._lead = int(self._by_slice)

    def spread(self, lanes: int) -> None:
        """Deals blocks to so many devices, each of which draws as large a part of a batch."""
        self.window = max(1, min(self._wanted, len(self) // lanes))
        """how many blocks are sampled from at a time, on each device"""
        self.every = 0
        """steps between two changes; 0: there are none"""
        if len(self) not in (1, lanes * self.window):
            self.every = self._every or _replace_every(self.starts * lanes, self._batch_size)

    def __len__(self) -> int:
        return len(self.firsts)

    def turn(self, step: int) -> int:
        """How often the window has changed when the batch of update `step`, from 0, is drawn."""
        return (step + self._lead) // self.every if self.every else 0

    def until(self, step: int) -> int | None:
        """The first step after `step` with another window; `None` if there is none."""
        return (self.turn(step) + 1) * self.every - self._lead if self.every else None

    def at(self, place: int) -> int:
        """Which block is at `place` of the endless row."""
        if self._by_slice:
            return place % len(self)
        turn, i = divmod(place, len(self))
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, turn]))
        # The blocks of a slice one after another, where reading one means to unpack it.
        parts = [self._parts[part] for part in rng.permutation(len(self._parts))]
        return int(np.concatenate([rng.permutation(part) for part in parts])[i])

    def read(self, index: int) -> Any:
        """Reads, relabels and chunks a block: a dataset by itself, as `chunks.block` gives it."""
        start, stop = self._span(index)
        slices = self._source.slices[-1:] if self._source.seekable else self._source.slices
        end = slices[np.searchsorted(slices, start, "right")]
        # What makes it as long as the others: rows that no start leads to, or none where the data end.
        stop = max(stop, min(start + self._rows, int(end)))
        found = self._prepare(self._source.read(start, stop))
        changes = {}
        for name, array in found._asdict().items():
            if array is None:
                continue
            if name not in chunks.OF_ROWS:
                array = array[: self._transitions]
            elif short := self._rows - len(array):
                array = np.concatenate([array, np.repeat(array[-1:], short, axis=0)])
            changes[name] = array
        return found._replace(**changes)

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
    """(first transition, starts) of what blocks are cut from: all of it, or slice by slice."""
    rows = source.slices if apart else source.slices[[0, -1]]
    before = [int(row - np.searchsorted(source.ends, row)) for row in rows]
    parts = [(a, b - a - steps + 1) for a, b in pairwise(before)]
    if (least := min(n for _, n in parts)) < 1:
        raise UserError(
            f"{source.path}: a slice has fewer than {steps} transitions ({least + steps - 1}): "
            "put it together with another one"
        )
    return parts


def _block_size(path: Path, parts: list[tuple[int, int]], wanted: int) -> int:
    """As close below `wanted` as makes equal parts of a part; at most the smallest. 0: that."""
    least, largest = min(n for _, n in parts), max(n for _, n in parts)
    if not wanted:
        if least < largest:
            log(f"qgf: warning: {path}: of longer slices the starts after {least} are left out")
        return least
    equal = max(-(-n // -(-n // wanted)) for _, n in parts)
    if least < equal:
        log(
            f"qgf: warning: {path}: its shortest slice has {least} starts, so no block has more than "
            "that: `qgf convert` it, or put slices together"
        )
    return min(least, equal)


def _firsts(parts: list[tuple[int, int]], size: int, *, every_start: bool) -> list[np.ndarray]:
    """The first transitions of all blocks, by part."""
    counts = [-(-starts // size) if every_start else 1 for _, starts in parts]
    return [
        first + chunks.cut(starts, n, size)[0]
        for (first, starts), n in zip(parts, counts, strict=True)
    ]


def _replace_every(starts: int, batch_size: int) -> int:
    """So that each start is drawn about `_VISITS` times a round.

    In hundreds, or a divisor of 100: dispatches are cut where the window changes, and each new length
    of one is compiled.
    """
    steps = _VISITS * starts / batch_size
    if steps > 75:
        return 100 * max(1, round(steps / 100))
    return min((1, 2, 4, 5, 10, 20, 25, 50), key=lambda n: abs(n - steps))


_VISITS = 2.0


def streams(
    source: Source, sample: Any, options: Mapping[str, Any], room: Callable[[], int] | None
) -> bool:
    """Whether to stream, by `data.mode`; on auto, one line says why.

    `sample` is a piece of the dataset, for its types; `room` says what the devices hold.
    """
    mode, folder = options["mode"], len(source.slices) > 2
    if options["schedule"] == "slices" and folder:
        if mode == "resident":
            raise UserError(
                "data.schedule=slices has one slice on the device at a time: set data.mode=auto"
            )
        return True
    if mode != "auto":
        return mode == "streamed"
    if not folder and not source.seekable:
        return False  # it had to be read whole
    counts = {name: int(source.slices[-1]) for name in chunks.OF_ROWS}
    needed = sum(
        array[:1].nbytes * counts.get(name, source.transitions)
        for name, array in sample._asdict().items()
        if array is not None
    )
    there = min([memory(), *([room()] if room else [])])
    streamed = needed > _SHARE * there
    log(
        f"data: {source.path.name} takes {needed / 2**30:.2f} GB on the device, where "
        f"{there / 2**30:.2f} GB are free: {'streamed' if streamed else 'resident'} (data.mode)"
    )
    return streamed


def memory(root: Path = Path("/")) -> int:
    """Bytes that the host can still give this process, by the kernel and by its control groups.

    A batch system's limit, or a container's, is one of the latter; of what a group uses, files that
    are only cached count as free.
    """
    found = []
    with contextlib.suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                found += _free_in_groups(root / "sys/fs/cgroup" / kinds, path)
    if not found:
        raise UserError("this system does not say how much memory is free: set data.mode")
    return max(0, min(found))


def _free_in_groups(top: Path, path: str) -> list[int]:
    """What each group above has left. In a container `path` may be one that only the host sees."""
    names = ("memory.max", "memory.current", "inactive_file")
    if top.name == "memory":  # the first version of control groups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    found, group = [], top / path.lstrip("/")
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError, KeyError):  # "max", or no such group
            limit, used = (int((folder / name).read_text()) for name in names[:2])
            lines = (folder / "memory.stat").read_text().splitlines()
            cached = int(dict(line.split() for line in lines)[names[2]])
            found.append(limit - used + cached)
        if folder == top:
            break
    return found
