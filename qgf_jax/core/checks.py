"""Shapes at the seams between parts: what is wrong is one clear line, not a broadcast."""

from collections.abc import Sequence
from typing import Any

import chex
import jax

from qgf_jax.errors import UserError
from qgf_jax.types import Array, Batch


def shape(what: str, x: Array, wanted: Sequence[Any]) -> None:
    """Raises `UserError` unless `x`, which is `what`, has the shape `wanted`; `...` is any axes."""
    try:
        chex.assert_shape(x, wanted)
    except AssertionError:
        axes = ", ".join("…" if axis is ... else str(axis) for axis in wanted)
        raise UserError(
            f"{what} has shape {list(jax.numpy.shape(x))}; it must have shape [{axes}]"
        ) from None


def number(what: str, x: Array) -> None:
    """Raises `UserError` unless `x`, which is `what`, is one float."""
    shape(what, x, ())
    try:
        chex.assert_type(x, float)
    except AssertionError:
        raise UserError(f"{what} is of type {x.dtype}; it must be a float") from None


def batch_size(batch: Batch) -> int:
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
