"""Sums over the last axis, and layer norms, which are quick on a CPU and few kernels elsewhere.

XLA's own sums over the last axis take about three times as long on a CPU as a product with ones. An
accelerator gets the plain sum, which it fuses with what is around it.
"""

import contextlib
import contextvars
from collections.abc import Generator
from typing import Any

import jax
import jax.numpy as jnp

from qgf_jax.types import Array

_EPSILON = 1e-6
_TRAINING: contextvars.ContextVar[bool] = contextvars.ContextVar("training", default=False)


@contextlib.contextmanager
def for_training() -> Generator[None]:
    """Layer norms traced inside are made for large batches and for gradients of all that they take.

    On an accelerator that is 17 kernels an update less than what serves single actions best, and for
    these 11 of 43 more in each step of QGF's flow (`benchmarks/kernels.py`).
    """
    token = _TRAINING.set(True)
    try:
        yield
    finally:
        _TRAINING.reset(token)


def in_training() -> bool:
    """Whether what is traced now is `for_training`."""
    return _TRAINING.get()


def fast_sum(x: Array) -> Array:
    """The sum [...] over the last axis of `x` [..., N]."""
    return jax.lax.platform_dependent(
        x, cpu=lambda x: x @ jnp.ones(x.shape[-1], x.dtype), default=lambda x: x.sum(axis=-1)
    )


def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """Layer norm (Ba et al., 2016) of `x` [N] with `scale` and `bias` [N]: Flax's to rounding."""
    default = _in_training if in_training() else _by_sums
    return jax.lax.platform_dependent(x, scale, bias, cpu=_by_products, default=default)


def _by_products(x: Array, scale: Array, bias: Array) -> Array:
    """One pass over `x`. Products with ones spread a number too, whose gradient then is one."""
    width = x.shape[-1]

    def total(x: Array) -> Array:
        return x @ jnp.ones(width, x.dtype)

    def spread(x: Array) -> Array:
        return x[None] @ jnp.ones((1, width), x.dtype)

    return _one_pass(x, scale, bias, total, spread)


def _by_sums(x: Array, scale: Array, bias: Array) -> Array:
    return _one_pass(x, scale, bias, jnp.sum, lambda x: x)


def _one_pass(x: Array, scale: Array, bias: Array, total: Any, spread: Any) -> Array:
    mean = total(x) / x.shape[-1]
    variance = jnp.maximum(0.0, total(x * x) / x.shape[-1] - mean * mean)
    slope = spread(jax.lax.rsqrt(variance + _EPSILON)) * scale
    return (x - spread(mean)) * slope + bias


def _in_training(x: Array, scale: Array, bias: Array) -> Array:
    return _normalized(x) * scale + bias


def _two_passes(x: Array) -> tuple[Array, Array]:
    """`x` [N] less its mean over its standard deviation, and one over that deviation [].

    The mean is taken off before squares are summed: more exact, and what XLA makes one kernel of.
    """
    centred = x - x.mean()
    slope = jax.lax.rsqrt((centred * centred).mean() + _EPSILON)
    return centred * slope, slope


@jax.custom_jvp
def _normalized(x: Array) -> Array:
    return _two_passes(x)[0]


@_normalized.defjvp
def _normalized_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The derivative is slope (I - U^T U / N), U = [ones, h] [2, N], h the result.

    Both sums are of one array, and the transpose of this has the same form, so that either way they are
    one kernel. What JAX would derive by itself has twice as many.
    """
    (x,), (tangent,) = primals, tangents
    h, slope = _two_passes(x)
    u = jnp.stack([jnp.ones_like(h), h])
    tangent = slope * tangent
    sums = (u * tangent[None]).sum(axis=-1)
    return h, tangent - (sums[:, None] * u).sum(axis=0) / x.shape[-1]
