"""Layers of the networks: dense ones and layer norms, what they compute in, and features of time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from qgf_jax.core.reductions import layer_norm
from qgf_jax.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": nn.gelu,  # the tanh approximation, as in the public code
    "mish": jax.nn.mish,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}
_GLOROT = nn.initializers.glorot_uniform()


class _Arithmetic(NamedTuple):
    """What layers compute in. Parameters, inputs and outputs of a network are float32 in any case."""

    dtype: Any
    precision: jax.lax.Precision
    """Of matrix products. It stands in the program, so no setting of JAX changes it, and gradients
    have it too."""

    def dense(self, width: int, **options: Any) -> nn.Dense:
        """(x [F]) -> [width]; `options` are Flax's."""
        return nn.Dense(width, dtype=self.dtype, precision=self.precision, **options)


ARITHMETIC = {
    "float32": _Arithmetic(jnp.float32, jax.lax.Precision.HIGHEST),
    # As the platform likes best: TF32 on NVIDIA's cards, one pass in bfloat16 on a TPU.
    "tf32": _Arithmetic(jnp.float32, jax.lax.Precision.DEFAULT),
    "bfloat16": _Arithmetic(jnp.bfloat16, jax.lax.Precision.DEFAULT),
}
"""By the config's `precision`."""


def sinusoidal(t: Array, width: int = 16) -> Array:
    """[cos(10000 t f_k), sin(10000 t f_k)], f_k = 10000 ** (-2k / width): [width].

    The first features turn over thousands of times between t = 0 and 1, so they see the rounding
    of t and of f_k; the order of the operations here is that of the public code.
    """
    half = width // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angle = t * 10000.0 * frequencies
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])


class LayerNorm(nn.Module):
    """(x [D]) -> [D]: Flax's own layer norm (Ba et al., 2016) to rounding, see `reductions`."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        return layer_norm(x.astype(jnp.float32), scale, bias).astype(self.dtype)


class MLP(nn.Module):
    """Dense, layer norm, activation, for each width; never a layer norm after the last width.

    The last width is linear unless `activate_last`, and then float32 whatever `precision` is.
    """

    widths: tuple[int, ...]
    activation: str
    layer_norm: bool
    activate_last: bool = False
    precision: str = "float32"
    """A key of `ARITHMETIC`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        arithmetic, last = ARITHMETIC[self.precision], len(self.widths) - 1
        for i, width in enumerate(self.widths):
            x = arithmetic.dense(width, kernel_init=_GLOROT)(x)
            if i < last and self.layer_norm:
                x = LayerNorm(arithmetic.dtype)(x)
            if i < last or self.activate_last:
                x = ACTIVATIONS[self.activation](x)
        return x if self.activate_last else x.astype(jnp.float32)
