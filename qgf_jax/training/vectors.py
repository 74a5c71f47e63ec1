"""A training state whose parameter groups are vectors, for devices that launch each operation.

The optimiser, the target copies and the check of gradients work number by number. Over one vector a
group they are a few kernels; over the leaves of a tree they are some for each layer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.flatten_util import ravel_pytree

from qgf_jax.types import Array, Params


class Packed(NamedTuple):
    """A state of vectors, and the ways back."""

    state: Any
    """A `TrainState`: each parameter group, target copy and moment is one vector [N]"""
    trees: Callable[[Params], Params]
    """groups as vectors -> the same groups as trees; its transpose is one concatenation a group"""
    unpack: Callable[[Any], Any]
    """a later state of vectors -> the state of trees, as it is saved and restored"""

    @classmethod
    def of(cls, state: Any, tx: optax.GradientTransformation) -> "Packed":
        """`state`, a `TrainState` of trees that `tx` optimises, as vectors."""
        params = {name: ravel_pytree(tree)[0] for name, tree in state.params.items()}
        to_tree = {name: ravel_pytree(tree)[1] for name, tree in state.params.items()}
        target_params = {name: ravel_pytree(tree)[0] for name, tree in state.target_params.items()}
        shapes = jax.eval_shape(tx.init, params)

        def vector(shape: Any, part: Any) -> Array:
            return ravel_pytree(part)[0] if shape.ndim else part

        def trees(groups: Params) -> Params:
            return {name: to_tree[name](vector) for name, vector in groups.items()}

        def tree(vector: Array, like: Any) -> Any:
            return ravel_pytree(like)[1](vector) if vector.ndim else vector

        def unpack(packed: Any) -> Any:
            return packed.replace(
                params=trees(packed.params),
                target_params=trees(packed.target_params),
                opt_state=jax.tree.map(tree, packed.opt_state, state.opt_state),
            )

        opt_state = jax.tree.map(vector, shapes, state.opt_state)
        packed = state.replace(params=params, target_params=target_params, opt_state=opt_state)
        return cls(packed, trees, unpack)

    @classmethod
    def as_it_is(cls, state: Any) -> "Packed":
        """`state` as it is."""
        return cls(state, lambda groups: groups, lambda state: state)
