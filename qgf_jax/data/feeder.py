"""The dataset that a step samples from: all of it, or a window over a stream.

A window is K blocks of one shape in one dataset; `sampling` draws uniformly over their starts. A thread
reads and prepares the next block and sends it to the device while steps run on the blocks before it.
"""

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qgf_jax.data.load import Loaded
from qgf_jax.data.stream import Stream


class DevicePlacement(NamedTuple):
    """How datasets get to devices: a piece for each device of the run."""

    put: Callable[[list[Any]], Any]
    """(datasets of one shape, one for each of `local_indices`) -> tree on the devices"""
    empty: Callable[[Any, int], Any]
    """(tree that `put` gave, K) -> a window of K blocks"""
    swap: Callable[[Any, Any, int], Any]
    """(window, tree that `put` gave, slot) -> window; may donate the window"""
    local_indices: Sequence[int] = (0,)
    """Which of all devices are this process's."""
    count: int = 1
    """The number of all devices."""

    @classmethod
    def one_device(cls, device: Any = None) -> "DevicePlacement":
        """All data on one device, by default JAX's default device."""
        return cls(
            put=lambda blocks: jax.device_put(blocks[0], device),
            empty=jax.jit(_empty, static_argnums=1),
            swap=jax.jit(_replace, donate_argnums=0),
        )

    @classmethod
    def sharded(
        cls,
        put: Callable[[list[Any]], Any],
        sharding: Any,
        local_indices: Sequence[int],
        count: int,
    ) -> "DevicePlacement":
        """A piece on each of `count` devices; `sharding` splits the leading axis of what `put` gives."""

        def empty(piece: Any, blocks: int) -> Any:
            return jax.vmap(lambda x: _empty(x, blocks))(piece)

        return cls(
            put,
            jax.jit(empty, static_argnums=1, out_shardings=sharding),
            jax.jit(
                jax.vmap(_replace, in_axes=(0, 0, None)), donate_argnums=0, out_shardings=sharding
            ),
            local_indices,
            count,
        )


def _empty(block: Any, blocks: int) -> Any:
    """A window with room for so many blocks like `block`. Pure, for the device."""
    return jax.tree.map(lambda x: jnp.zeros((blocks * x.shape[0], *x.shape[1:]), x.dtype), block)


def _replace(window: Any, block: Any, slot: Any) -> Any:
    """The window with `block` at position `slot` []. Pure, for the device."""
    changes = {}
    for name, new in block.moved(slot * len(block.obs))._asdict().items():
        if new is not None:
            old = getattr(window, name)
            changes[name] = jax.lax.dynamic_update_slice_in_dim(old, new, slot * len(new), 0)
    return window._replace(**changes)


class DatasetFeed:
    """Gives the dataset of a step. A resident dataset never changes."""

    def __init__(self, loaded: Loaded, steps: int, placement: DevicePlacement | None = None):
        """Takes the dataset out of `loaded`; a start needs `steps` transitions.

        By default all data go to one device.
        """
        self.blocks = 1
        """K, the number of blocks in a dataset on a device."""
        self.every = 0
        """Steps between two changes; 0: there are none."""
        self.waited = 0.0
        """Seconds that `at` has waited, not counting the first call."""
        self._placement = placement or DevicePlacement.one_device()
        self._turn, self._window = -1, None
        self._stream: Stream | None = None
        dataset = loaded.take()
        if isinstance(dataset, Stream):
            dataset.divide(self._placement.count)
            self._stream, self.every, self.blocks = dataset, dataset.every, dataset.window
            self._reader = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="read")
            self._next: tuple[int, concurrent.futures.Future[Any]] | None = None
        elif self._placement.count == 1:
            self._window = self._placement.put([dataset])
        else:
            pieces = dataset.split(self._placement.count, steps)
            self._window = self._placement.put([pieces[i] for i in self._placement.local_indices])

    def until(self, step: int) -> int | None:
        """The first step after `step` that has another dataset; `None` if none has."""
        return self._stream.until(step) if self._stream else None

    def ready(self, step: int) -> bool:
        """Whether `at` would return at once."""
        if self._stream is None or (turn := self._stream.turn(step)) == self._turn:
            return True
        return turn == self._turn + 1 and self._next is not None and self._next[1].done()

    def at(self, step: int) -> Any:
        """The dataset on the devices that update number `step`, from 0, draws from.

        Do not use what an earlier call gave: it may have been donated.
        """
        if self._stream is None or (turn := self._stream.turn(step)) == self._turn:
            return self._window
        started, first = time.perf_counter(), self._turn < 0
        kept = 0 if first else self._turn + self.blocks - turn  # blocks of the window that stay
        places = range(turn + kept if 0 < kept <= self.blocks else turn, turn + self.blocks)
        self._turn = turn
        for place in places:
            self._put(place, last=turn + self.blocks)
        if not first:
            self.waited += time.perf_counter() - started
        return self._window

    def _put(self, place: int, last: int) -> None:
        """Puts the block at `place` of the stream into its slot, and starts reading the next one."""
        if self._next is None or self._next[0] != place:
            self._next = (place, self._reader.submit(self._read, place))
        block = self._next[1].result()
        self._next = None
        if self.every or place + 1 < last:
            self._next = (place + 1, self._reader.submit(self._read, place + 1))
        window = self._window
        if window is None:
            window = self._placement.empty(block, self.blocks)
        self._window = self._placement.swap(window, block, place % self.blocks)

    def _read(self, place: int) -> Any:
        """The blocks of all devices at `place`, on the devices; runs in the thread."""
        stream, placement = self._stream, self._placement
        if stream is None:
            raise ValueError("nothing is streamed")
        first = place * placement.count
        blocks = [stream.read(stream.at(first + i)) for i in placement.local_indices]
        return jax.block_until_ready(placement.put(blocks))

    def close(self) -> None:
        """Waits for a block that is being read, and releases the data."""
        self._window = None
        if self._stream is not None:
            self._reader.shutdown(cancel_futures=True)
            self._next = None
