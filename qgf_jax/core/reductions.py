"""Sums over the last axis, and layer norms: quick on a CPU, few kernels elsewhere.

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
    """What is traced inside is made for gradients of parameters.

    On an accelerator layer norms have another form of their derivative: acting, which differentiates in
    actions alone, has fewer kernels without it (`benchmarks/kernels.py`). Everywhere no network is
    `prepared` for an observation, and an ensemble's vmap over a batch goes inside that over its members.
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
    default = _in_training if in_training() else _acting
    return jax.lax.platform_dependent(x, scale, bias, cpu=_by_products, default=default)


def _by_products(x: Array, scale: Array, bias: Array) -> Array:
    """One pass over `x`. A product with ones repeats a number too, so that its gradient is one."""
    width = x.shape[-1]

    def total(x: Array) -> Array:
        return x @ jnp.ones(width, x.dtype)

    def repeat(x: Array) -> Array:
        return x[None] @ jnp.ones((1, width), x.dtype)

    mean = total(x) / width
    variance = jnp.maximum(0.0, total(x * x) / width - mean * mean)
    factor = repeat(jax.lax.rsqrt(variance + _EPSILON)) * scale
    return (x - repeat(mean)) * factor + bias


def _in_training(x: Array, scale: Array, bias: Array) -> Array:
    return _normalized(x) * scale + bias


def _acting(x: Array, scale: Array, bias: Array) -> Array:
    return _standardized(x) * scale + bias


def _two_passes(x: Array) -> tuple[Array, Array]:
    """`x` [N] less its mean over its standard deviation, and one over that deviation [].

    The mean is taken off before squares are summed: more exact, and what XLA makes one kernel of.
    """
    centred = x - x.mean()
    inverse_std = jax.lax.rsqrt((centred * centred).mean() + _EPSILON)
    return centred * inverse_std, inverse_std


@jax.custom_jvp
def _normalized(x: Array) -> Array:
    return _two_passes(x)[0]


@_normalized.defjvp
def _normalized_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The derivative is (I - U^T U / N) / std, U = [ones, h] [2, N], h the result.

    Both sums are of one array, and the transpose of this has the same form, so that either way they are
    one kernel. What JAX would derive by itself has twice as many.
    """
    (x,), (tangent,) = primals, tangents
    h, inverse_std = _two_passes(x)
    u = jnp.stack([jnp.ones_like(h), h])
    tangent = inverse_std * tangent
    sums = (u * tangent[None]).sum(axis=-1)
    return h, tangent - (sums[:, None] * u).sum(axis=0) / x.shape[-1]


@jax.custom_jvp
def _standardized(x: Array) -> Array:
    return _two_passes(x)[0]


@_standardized.defjvp
def _standardized_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The same derivative, its sums one after the other.

    For a derivative in x alone XLA has a kernel for this and the activation's together.
    """
    (x,), (tangent,) = primals, tangents
    h, inverse_std = _two_passes(x)
    mean, along = tangent.mean(), (tangent * h).mean()
    return h, inverse_std * (tangent - mean - h * along)
