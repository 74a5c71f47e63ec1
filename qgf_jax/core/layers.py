"""Layers of the networks: dense ones and layer norms, what they compute in, and features of time.

Who runs many networks at once may evaluate their layers in a way of its own: see `Layer.evaluated_by`.
"""

import contextlib
import contextvars
from collections.abc import Callable, Generator
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


_Evaluation = Callable[..., Array]
_EVALUATION: contextvars.ContextVar[_Evaluation | None] = contextvars.ContextVar(
    "evaluation", default=None
)


class Layer(NamedTuple):
    """What a layer computes, but for its numbers."""

    activation: str = ""
    """A key of `ACTIVATIONS`; "": none"""
    layer_norm: bool = False
    dtype: Any = jnp.float32
    precision: jax.lax.Precision = jax.lax.Precision.HIGHEST

    @staticmethod
    @contextlib.contextmanager
    def evaluated_by(evaluation: _Evaluation) -> Generator[None]:
        """Networks traced inside have each layer evaluated by `evaluation`.

        That is (layer, x [F], kernel [F, W], bias [W], and with layer norm its scale and bias [W])
        -> [W], a `Layer`'s dense part, layer norm and activation.
        """
        token = _EVALUATION.set(evaluation)
        try:
            yield
        finally:
            _EVALUATION.reset(token)


class Dense(nn.Dense):
    """Flax's, evaluated as `Layer.evaluated_by` says."""

    def __call__(self, inputs: Array) -> Array:
        evaluation = _EVALUATION.get()
        if evaluation is None or self.is_initializing():
            return super().__call__(inputs)
        numbers = self.variables["params"]
        precision: Any = self.precision
        layer = Layer(dtype=self.dtype, precision=precision)
        return evaluation(layer, inputs, numbers["kernel"], numbers["bias"])


class _Arithmetic(NamedTuple):
    """What layers compute in. Parameters, inputs and outputs of a network are float32 in any case."""

    dtype: Any
    precision: jax.lax.Precision
    """Of matrix products. It stands in the program, so no setting of JAX changes it, and gradients
    have it too."""

    def dense(self, width: int, **options: Any) -> nn.Dense:
        """(x [F]) -> [width]; `options` are Flax's."""
        return Dense(width, dtype=self.dtype, precision=self.precision, **options)


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
        evaluation = _EVALUATION.get()
        if evaluation is not None and not self.is_initializing():
            return self._evaluated(x, evaluation)
        arithmetic, last = ARITHMETIC[self.precision], len(self.widths) - 1
        for i, width in enumerate(self.widths):
            x = arithmetic.dense(width, kernel_init=_GLOROT)(x)
            if i < last and self.layer_norm:
                x = LayerNorm(arithmetic.dtype)(x)
            if i < last or self.activate_last:
                x = ACTIVATIONS[self.activation](x)
        return x if self.activate_last else x.astype(jnp.float32)

    def _evaluated(self, x: Array, evaluation: _Evaluation) -> Array:
        """The same, each layer by `evaluation`."""
        arithmetic, last = ARITHMETIC[self.precision], len(self.widths) - 1
        params = self.variables["params"]
        for i in range(len(self.widths)):
            norm = i < last and self.layer_norm
            active = self.activation if i < last or self.activate_last else ""
            dense, scaled = params[f"Dense_{i}"], params[f"LayerNorm_{i}"] if norm else {}
            numbers = dense["kernel"], dense["bias"], *(scaled[k] for k in _NORM if norm)
            x = evaluation(Layer(active, norm, *arithmetic), x, *numbers)
        return x if self.activate_last else x.astype(jnp.float32)


_NORM = ("scale", "bias")
