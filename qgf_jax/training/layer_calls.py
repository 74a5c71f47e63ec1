"""Layers of networks as operations of a traced program, which can then be found and run together.

`traced` makes a program in which each layer that a loss evaluates is one operation, whatever vmaps are
around it. Where such an operation stays where it is, as inside a flow's loop, or is differentiated by a
loss, as in a slope of Q, it is the arithmetic of that layer and no more.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from qgf_jax.core.layers import ACTIVATIONS, Layer
from qgf_jax.core.reductions import for_training, layer_norm
from qgf_jax.types import Array


def traced(function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """The jaxpr of `function(*args)`, in which layers are `LAYER`, and the shapes of what it returns."""
    with Layer.evaluated_by(_bind):
        return jax.make_jaxpr(function, return_shape=True)(*args)


def together(
    layer: Layer, normed: Sequence[bool], x: Array, kernel: Array, bias: Array, *norm: Array
) -> Array:
    """`layer` of N networks: x [N, M, F], kernel [N, F, W], the others [N, W] -> [N, M, W].

    `normed`: which of them have the layer norm, if any has.
    """
    with jax.named_scope("Dense"):
        x, kernel, bias = (a.astype(layer.dtype) for a in (x, kernel, bias))
        x = jnp.einsum("nmf,nfw->nmw", x, kernel, precision=layer.precision) + bias[:, None]
    if any(normed):
        with jax.named_scope("LayerNorm"), for_training():
            over_rows = jax.vmap(layer_norm, in_axes=(0, None, None))
            scaled = jax.vmap(over_rows)(x.astype(jnp.float32), *norm).astype(layer.dtype)
            # Selected where not all have one: exact, and one product for all all the same.
            x = scaled if all(normed) else jnp.where(np.array(normed)[:, None, None], scaled, x)
    if layer.activation:
        with jax.named_scope("MLP"):
            x = ACTIVATIONS[layer.activation](x)
    return x


LAYER = Primitive("layer")
"""(x […, F], kernel [F, W], …) -> […, W], see `Layer.evaluated_by`, with `layer`, `members`, `own`.

With `members` = E > 0 parameters have a leading axis [E, …], and so has what comes out; x has it too if
it is their `own`.
"""


def _bind(layer: Layer, x: Array, *numbers: Array) -> Array:
    return LAYER.bind(x, *numbers, layer=layer, members=0, own=False)


def rows_of(x: Array, members: int, own: bool) -> Array:
    """`x` of a call as [N, M, F], N = `members` or 1."""
    rows = x.reshape(members if own else 1, math.prod(x.shape[own:-1]), x.shape[-1])
    return jnp.broadcast_to(rows, (members or 1, *rows.shape[1:]))


def _apart(x: Array, *numbers: Array, layer: Layer, members: int, own: bool) -> Array:
    """A call by itself."""
    numbers = numbers if members else tuple(a[None] for a in numbers)
    normed = [layer.layer_norm] * (members or 1)
    result = together(layer, normed, rows_of(x, members, own), *numbers)
    lead = (members,) * (members > 0) + x.shape[own:-1]
    return result.reshape(*lead, result.shape[-1])


def _shape(*avals: Any, **how: Any) -> Any:
    shape = jax.eval_shape(functools.partial(_apart, **how), *avals)
    return ShapedArray(shape.shape, shape.dtype)


def _derivative(primals: Any, tangents: Any, **how: Any) -> Any:
    tangents = [ad.instantiate_zeros(t) for t in tangents]
    return jax.jvp(functools.partial(_apart, **how), primals, tuple(tangents))


def _batched(args: Any, axes: Any, *, layer: Layer, members: int, own: bool) -> Any:
    x, numbers = args[0], args[1:]
    if all(axis is None for axis in axes[1:]):
        # One more axis of examples, after that of the members.
        x = jnp.moveaxis(x, axes[0], int(own))
        out = LAYER.bind(x, *numbers, layer=layer, members=members, own=own)
        return out, int(members > 0)
    if members:
        apart = functools.partial(_apart, layer=layer, members=members, own=own)
        return jax.vmap(apart, in_axes=tuple(axes))(*args), 0
    size = next(a.shape[i] for a, i in zip(args, axes, strict=True) if i is not None)
    front = [
        jnp.broadcast_to(a, (size, *a.shape)) if i is None else jnp.moveaxis(a, i, 0)
        for a, i in zip(numbers, axes[1:], strict=True)
    ]
    own = axes[0] is not None
    x = jnp.moveaxis(x, axes[0], 0) if own else x
    return LAYER.bind(x, *front, layer=layer, members=size, own=own), 0


LAYER.def_impl(_apart)
LAYER.def_abstract_eval(_shape)
ad.primitive_jvps[LAYER] = _derivative
batching.primitive_batchers[LAYER] = _batched
mlir.register_lowering(LAYER, mlir.lower_fun(_apart, multiple_results=False))
