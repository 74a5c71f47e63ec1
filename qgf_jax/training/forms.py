"""The forms in which a training state may lie while a dispatch runs, and what depends on that.

A CPU updates trees. A device that launches each operation has the form of `stacks`; with groups that
wait, which that does not know, a vector for each parameter group. The optimiser, the target copies and
the check of gradients work number by number: over one vector a group they are a few kernels, over the
leaves of a tree some for each layer.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from qgf_jax.core.reductions import fast_sum
from qgf_jax.training.optimizers import clip_groups
from qgf_jax.types import Array, Metrics, Params


class Form(Protocol):
    """How a state lies, and what depends on that."""

    def pack(self, state: Any, still: Any) -> Any:
        """`state`, one of trees, as it lies; `still` are groups and target copies that nothing moves."""

    def unpack(self, packed: Any) -> Any:
        """A later state as one of trees, as it is saved and restored."""

    def gradient(
        self, params: Params, slow: Params, still: Any, *rest: Any
    ) -> tuple[Params, Metrics]:
        """The gradient of the loss by `params`, as they lie, and the metrics."""

    def checksums(self, grads: Params) -> dict[str, Array]:
        """[] of each parameter group, finite only if its gradient is."""

    def clip(self, grads: Params, norm: float) -> Params:
        """Each parameter group's gradient scaled down to the global norm `norm`, by itself."""

    def follow(
        self, slow: Params, source: Params, params: Params, tau: float, due: Mapping[str, Array]
    ) -> Params:
        """Target copies a share `tau` of the way to `source`, those in `due` only if that is true.

        `params` are the parameters after the update.
        """


class Trees:
    """A state as it is."""

    def __init__(self, total: Callable[..., Any]) -> None:
        """`total`: (params, targets, still, *rest) -> (the loss [], metrics)."""
        self._total = total

    def pack(self, state: Any, still: Any) -> Any:
        """See `Form`, as of the others."""
        return state

    def unpack(self, packed: Any) -> Any:
        """The state of trees."""
        return packed

    def _trees(self, groups: Params) -> Params:
        """Groups as they lie -> the same as trees."""
        return groups

    def gradient(
        self, params: Params, slow: Params, still: Any, *rest: Any
    ) -> tuple[Params, Metrics]:
        """By the total loss."""

        def loss(params: Params) -> tuple[Array, Metrics]:
            return self._total(self._trees(params), self._trees(slow), still, *rest)

        return jax.grad(loss, has_aux=True)(params)

    def checksums(self, grads: Params) -> dict[str, Array]:
        """Of all leaves of each group."""
        return {name: _checksum(group) for name, group in grads.items()}

    def clip(self, grads: Params, norm: float) -> Params:
        """By Optax."""
        return clip_groups(grads, norm)

    def follow(
        self, slow: Params, source: Params, params: Params, tau: float, due: Mapping[str, Array]
    ) -> Params:
        """By Optax."""
        online: Params = {group: source[group] for group in slow}
        moved: Any = optax.incremental_update(online, slow, tau)
        waiting = {group: optax.tree.where(due[group], moved[group], slow[group]) for group in due}
        return moved | waiting


class Vectors(Trees):
    """Each parameter group, target copy and moment is one vector [N]."""

    def __init__(
        self, total: Callable[..., Any], state: Any, tx: optax.GradientTransformation
    ) -> None:
        """For `state`, a `TrainState` of trees that `tx` optimises."""
        super().__init__(total)
        self._tx = tx
        self._back = {name: ravel_pytree(tree)[1] for name, tree in state.params.items()}
        self._opt_state = state.opt_state

    def pack(self, state: Any, still: Any) -> Any:
        """As `Form` says, like the others."""
        params, slow = (
            {name: ravel_pytree(tree)[0] for name, tree in groups.items()}
            for groups in (state.params, state.target_params)
        )

        def vector(shape: Any, part: Any) -> Array:
            return ravel_pytree(part)[0] if shape.ndim else part

        opt_state = jax.tree.map(vector, jax.eval_shape(self._tx.init, params), state.opt_state)
        return state.replace(params=params, target_params=slow, opt_state=opt_state)

    def unpack(self, packed: Any) -> Any:
        """The state of trees."""

        def tree(vector: Array, like: Any) -> Any:
            return ravel_pytree(like)[1](vector) if vector.ndim else vector

        return packed.replace(
            params=self._trees(packed.params),
            target_params=self._trees(packed.target_params),
            opt_state=jax.tree.map(tree, packed.opt_state, self._opt_state),
        )

    def _trees(self, groups: Params) -> Params:
        """Its transpose is one concatenation a group."""
        return {name: self._back[name](vector) for name, vector in groups.items()}


def _checksum(tree: Any) -> Array:
    """[]: finite only if each number is, the sum of each row, and of a vector's squares.

    Squares because Adam's moments must be finite too; and because XLA would take a plain sum over a
    vector that is put together from layers apart, into one for each. Matrices are summed as they are:
    on a CPU squares would cost a pass over each. So where updates are on trees, a gradient between 1e19
    and 1e38 counts as finite.
    """
    leaves = [x * x if x.ndim == 1 else x for x in jax.tree.leaves(tree)]
    sums = [jnp.ravel(fast_sum(x) if x.ndim else x) for x in leaves]
    return jnp.concatenate(sums).sum()
