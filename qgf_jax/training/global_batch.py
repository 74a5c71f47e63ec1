"""What a loss needs of the global batch, of which each device holds a part.

Under `pmap` a loss sees its device's part [B] of the global batch [G]. Noise is drawn for the global
batch and each device takes its own rows, so an example meets the same noise however many devices there
are. A number that depends on all examples, such as the mean size of Q, is computed over all devices.
With one device, and under `jit` with shardings, the part is the whole and each function the plain one.

`train.train_step` names the axis of devices while losses are traced; no loss knows it.
"""

import contextlib
import contextvars
from collections.abc import Callable, Generator

import jax

from qgf_jax.types import Array, Metrics

_AXIS: contextvars.ContextVar[str | None] = contextvars.ContextVar("axis of devices", default=None)


@contextlib.contextmanager
def divided_over(axis_name: str | None) -> Generator[None]:
    """Batches that are traced inside are parts of a global batch over this axis; None: the whole."""
    token = _AXIS.set(axis_name)
    try:
        yield
    finally:
        _AXIS.reset(token)


def own_rows(whole: Array) -> Array:
    """This device's rows [B, …] of `whole` [G, …]."""
    axis = _AXIS.get()
    if axis is None:
        return whole
    size = len(whole) // jax.lax.axis_size(axis)
    return jax.lax.dynamic_slice_in_dim(whole, size * jax.lax.axis_index(axis), size)


def draw(sampler: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...]) -> Array:
    """This device's rows, of `shape` [B, …], of `sampler(shape of the global batch [G, …])`.

    With partitionable Threefry, JAX's default since 0.5, each number of a draw is a function of its
    place, so a compiler may leave out the numbers that other devices keep.
    """
    axis = _AXIS.get()
    devices = 1 if axis is None else jax.lax.axis_size(axis)
    return own_rows(sampler((devices * shape[0], *shape[1:])))


def normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise of `shape` [B, …]."""
    return draw(lambda whole: jax.random.normal(key, whole), shape)


def randint(key: Array, shape: tuple[int, ...], least: int, end: int) -> Array:
    """Integers from `least` to `end` - 1 of `shape` [B, …]."""
    return draw(lambda whole: jax.random.randint(key, whole, least, end), shape)


def split(key: Array, size: int) -> Array:
    """Keys [B], one for each of this device's `size` = B examples."""
    return draw(lambda whole: jax.random.split(key, whole[0]), (size,))


def mean(x: Array) -> Array:
    """The mean [] of `x` [B, …] over the global batch."""
    axis = _AXIS.get()
    return x.mean() if axis is None else jax.lax.pmean(x.mean(), axis)


def gather(x: Array) -> Array:
    """The rows [G, …] of all devices, in the order of the global batch, of `x` [B, …].

    The gradient of a row is the sum of what the losses of all devices send back. `train_step` then
    averages gradients over devices, once.
    """
    axis = _AXIS.get()
    return x if axis is None else jax.lax.all_gather(x, axis, tiled=True)


def summary(name: str, x: Array) -> Metrics:
    """Mean, least and largest number of `x` over the global batch, as metrics."""
    average, least, largest, axis = mean(x), x.min(), x.max(), _AXIS.get()
    if axis is not None:  # JAX has no derivative of pmin and pmax, and a metric needs none
        least = jax.lax.pmin(jax.lax.stop_gradient(least), axis)
        largest = jax.lax.pmax(jax.lax.stop_gradient(largest), axis)
    return {f"{name}_mean": average, f"{name}_min": least, f"{name}_max": largest}
