"""A loss of one example, over a global batch of which each device holds a part.

Under `pmap` a device sees B of the G examples of the global batch. Random numbers are drawn for the
global batch and each device takes its own rows, so an example meets the same noise however many devices
there are. A loss that depends on the whole batch gets it gathered from all devices. With one device, and
under `jit` with shardings, the part is the whole. No loss knows devices.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from qgf_jax.core import checks
from qgf_jax.core.reductions import for_training
from qgf_jax.errors import UserError
from qgf_jax.types import Array, Batch, Loss, Metrics, Params, Summary


def batch_loss(
    loss: Loss,
    params: Params,
    target_params: Params,
    batch: Batch,
    key: Array,
    *,
    axis_name: str | None = None,
    name: str = "a group",
) -> tuple[Array, Metrics]:
    """The mean [] of `loss` over this device's part of a batch, and metrics of the global batch.

    The mean over the axis of devices of losses and of their gradients is that of the global batch.
    `name` is the parameter group's, for messages. Raises `UserError` for a loss or a draw of the wrong
    shape, and for a batch whose fields differ in length.
    """
    x, size = loss.view(batch), _batch_size(batch)
    total = size * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    shapes: Any = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)
    drawn = loss.draw(key, total, shapes)
    for numbers in jax.tree.leaves(drawn):
        checks.shape(f"what the loss of {name} draws", numbers, (total, ...))

    def example(x: Batch, noise: Any) -> Any:
        result = loss.example(params, target_params, x, noise)
        if loss.combine is None:
            _check_number(f"the loss of {name} for one example", result[0])
        return result

    with for_training():
        results = jax.vmap(example)(x, _own_rows(drawn, size, axis_name))
        if loss.combine is not None:
            rows = _own_rows(jnp.arange(total), size, axis_name)
            results = loss.combine(results, _gather(results, axis_name), rows)
            checks.shape(f"the combined losses of {name}", results[0], (size,))
    losses, metrics = results
    losses = x.weight * losses if loss.weighted else losses
    return losses.mean(), _averages(metrics, axis_name)


def _batch_size(batch: Batch) -> int:
    """B. Raises `UserError` unless all fields of `batch` have it as their first axis."""
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    sizes = {jax.tree_util.keystr(path): jax.numpy.shape(x)[:1] for path, x in leaves}
    first: Any = next(iter(sizes.values()))
    for name, size in sizes.items():
        if size != first or not size:
            raise UserError(
                f"field {name.lstrip('.')} of a batch has {size[0] if size else 'no'} rows; "
                f"{next(iter(sizes)).lstrip('.')} has {first[0] if first else 'none'}"
            )
    return first[0]


def _check_number(what: str, x: Array) -> None:
    """Raises `UserError` unless `x`, which is `what`, is one float."""
    checks.shape(what, x, ())
    try:
        chex.assert_type(x, float)
    except AssertionError:
        raise UserError(f"{what} is of type {x.dtype}; it must be a float") from None


def _own_rows(whole: Any, size: int, axis_name: str | None) -> Any:
    """This device's rows, a tree of [B, …], of a tree of [G, …].

    With partitionable Threefry, JAX's default since 0.5, each number of a draw is a function of its
    place, so a compiler may leave out the numbers that other devices keep.
    """
    if axis_name is None:
        return whole
    start = size * jax.lax.axis_index(axis_name)
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), whole)


def _gather(mine: Any, axis_name: str | None) -> Any:
    """The rows [G, …] of all devices, in the order of the global batch, of a tree of [B, …].

    The gradient of a row is the sum of what the losses of all devices send back. `train_step` then
    averages gradients over devices, once.
    """
    if axis_name is None:
        return mine
    return jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), mine)


def _averages(metrics: Metrics, axis_name: str | None) -> Metrics:
    """Means over the examples; of a `Summary` least and largest too, over all devices."""
    averages: Metrics = {}
    for name, metric in metrics.items():
        if not isinstance(metric, Summary):
            averages[name] = metric.mean()
            continue
        averages[f"{name}_mean"] = metric.numbers.mean()
        least, largest = metric.numbers.min(), metric.numbers.max()
        if axis_name is not None:  # JAX has no derivative of pmin and pmax, and a metric needs none
            least = jax.lax.pmin(jax.lax.stop_gradient(least), axis_name)
            largest = jax.lax.pmax(jax.lax.stop_gradient(largest), axis_name)
        averages |= {f"{name}_min": least, f"{name}_max": largest}
    return averages
