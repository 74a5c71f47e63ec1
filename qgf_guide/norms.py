"""Euclidean lengths of vectors that may be zero, or as small and as large as float32 goes.

Of the last axis, which stays as one number, so that [B, D] are B vectors.
"""

from qgf_guide.lazy import jnp
from qgf_guide.types import Array


def length(x: Array) -> Array:
    """The length [..., 1] of `x` [..., D], and 0 of zeros.

    Measured in units of the largest entry, because squares leave float32 below 1e-19 and above 1e19, and
    the slope of a critic that ends with a sigmoid is as small as that where the sigmoid is flat.
    """
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    squares = (x / jnp.where(largest > 0, largest, 1.0)) ** 2
    whole = squares.sum(axis=-1, keepdims=True)
    return largest * jnp.sqrt(jnp.maximum(whole, 1.0))  # below 1 are those of zeros alone


def shorten(x: Array, most: Array | float) -> Array:
    """`x` [..., D], scaled down to the length `most` > 0 where it is longer."""
    return x * (most / jnp.maximum(length(x), most))
