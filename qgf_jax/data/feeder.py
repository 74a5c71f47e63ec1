"""The dataset that a step samples from: the whole of it, or a window over a stream, kept filled.

A window is K blocks of one shape in one dataset, `sampling` draws uniformly over their starts. The
next block is read, prepared and sent to the device by a thread while steps run on those before it.
"""

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qgf_jax.data import chunks
from qgf_jax.data.chunks import ROW_NUMBERS
from qgf_jax.data.load import Loaded
from qgf_jax.data.stream import Stream


def empty(block: Any, blocks: int) -> Any:
    """A window with room for so many blocks like `block`. Pure, for the device."""
    return jax.tree.map(lambda x: jnp.zeros((blocks * x.shape[0], *x.shape[1:]), x.dtype), block)


def replace(window: Any, block: Any, slot: Any) -> Any:
    """The window with `block` in the place `slot` []. Pure, for the device."""
    changes = {}
    for name, new in block._asdict().items():
        if new is None:
            continue
        if name in ROW_NUMBERS:
            new = new + slot * len(block.obs)
        old = getattr(window, name)
        changes[name] = jax.lax.dynamic_update_slice_in_dim(old, new, slot * len(new), 0)
    return window._replace(**changes)


class DevicePlacement(NamedTuple):
    """How datasets go to devices, one lane each; `mine` are those of this process."""

    put: Callable[[list[Any]], Any]
    """(datasets of one shape, one for each of `mine`) -> tree on the devices"""
    empty: Callable[[Any, int], Any]
    """(tree that `put` gave, K) -> a window of K blocks"""
    swap: Callable[[Any, Any, int], Any]
    """(window, tree that `put` gave, slot) -> window; may donate the window"""
    mine: Sequence[int] = (0,)
    total: int = 1


def one_device(device: Any = None) -> DevicePlacement:
    """All data on one device, the default one unless it is named."""
    return DevicePlacement(
        put=lambda blocks: jax.device_put(blocks[0], device),
        empty=jax.jit(empty, static_argnums=1),
        swap=jax.jit(replace, donate_argnums=0),
    )


class DatasetFeed:
    """Gives the dataset of a step. A resident one never changes."""

    def __init__(self, loaded: Loaded, lanes: DevicePlacement, steps: int):
        """Takes the data from `loaded`; `steps` are those that a start needs."""
        self.blocks = 1
        """K, of which a dataset on a device is made"""
        self.every = 0
        """steps between two changes; 0: none"""
        self.waited = 0.0
        """seconds of `at`, but for the first call"""
        self._lanes, self._turn, self._window = lanes, -1, None
        self._stream: Stream | None = None
        dataset = loaded.take()
        if isinstance(dataset, Stream):
            dataset.spread(lanes.total)
            self._stream, self.every, self.blocks = dataset, dataset.every, dataset.window
            self._reader = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="read")
            self._coming: tuple[int, concurrent.futures.Future[Any]] | None = None
        elif lanes.total == 1:
            self._window = lanes.put([dataset])
        else:
            parts = chunks.split(dataset, lanes.total, steps)
            self._window = lanes.put([parts[i] for i in lanes.mine])

    def until(self, step: int) -> int | None:
        """The first step after `step` that has another dataset; `None` if none has."""
        return self._stream.until(step) if self._stream else None

    def ready(self, step: int) -> bool:
        """Whether `at` would not wait."""
        if self._stream is None or (turn := self._stream.turn(step)) == self._turn:
            return True
        return turn == self._turn + 1 and self._coming is not None and self._coming[1].done()

    def at(self, step: int) -> Any:
        """The dataset on the device that update `step`, from 0, draws from.

        What an earlier call gave may be gone: it was donated.
        """
        if self._stream is None or (turn := self._stream.turn(step)) == self._turn:
            return self._window
        started, first = time.perf_counter(), self._turn < 0
        k = self.blocks
        if not self._turn <= turn < self._turn + k or first:
            self._turn, places = turn, range(turn, turn + k)
        else:
            places = range(self._turn + k, turn + k)
            self._turn = turn
        for place in places:
            self._put(place, last=turn + k)
        if not first:
            self.waited += time.perf_counter() - started
        return self._window

    def _put(self, place: int, last: int) -> None:
        """Puts the block at `place` into its slot, and has the next one read."""
        if self._coming is None or self._coming[0] != place:
            self._coming = (place, self._reader.submit(self._read, place))
        new = self._coming[1].result()
        self._coming = None
        if self.every or place + 1 < last:
            self._coming = (place + 1, self._reader.submit(self._read, place + 1))
        window = self._window
        if window is None:
            window = self._lanes.empty(new, self.blocks)
        self._window = self._lanes.swap(window, new, place % self.blocks)

    def _read(self, place: int) -> Any:
        """The blocks of all lanes at `place`, on the devices; in the thread."""
        stream, lanes = self._stream, self._lanes
        if stream is None:
            raise ValueError("nothing is streamed")
        blocks = [stream.read(stream.at(place * lanes.total + i)) for i in lanes.mine]
        return jax.block_until_ready(lanes.put(blocks))

    def close(self) -> None:
        """Waits for a block that is being read, and lets everything go."""
        self._window = None
        if self._stream is not None:
            self._reader.shutdown(cancel_futures=True)
            self._coming = None


def make(loaded: Loaded, steps: int, lanes: DevicePlacement | None = None) -> DatasetFeed:
    """The feeder of a run's data, which it takes from `loaded`."""
    return DatasetFeed(loaded, lanes or one_device(), steps)
