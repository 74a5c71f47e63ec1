"""What goes from part to part: a wrong shape is one clear line, not a broadcast."""

from collections.abc import Sequence
from typing import Any

import chex
import jax

from qgf_jax.errors import UserError
from qgf_jax.types import Array


def is_off(number: Any) -> bool:
    """Whether a number that switches something off at 0 is 0 as the program is made.

    One that the program is given as an argument is not.
    """
    return isinstance(number, (int, float)) and number == 0


def shape(what: str, x: Array, wanted: Sequence[Any]) -> None:
    """Raises `UserError` unless `x`, which is `what`, has the shape `wanted`; `...` is any axes."""
    try:
        chex.assert_shape(x, wanted)
    except AssertionError:
        axes = ", ".join("…" if axis is ... else str(axis) for axis in wanted)
        raise UserError(
            f"{what} has shape {list(jax.numpy.shape(x))}; it must have shape [{axes}]"
        ) from None
