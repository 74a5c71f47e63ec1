"""The forms in which a training state may lie while a dispatch runs, and what depends on that.

A CPU updates trees. A device that launches each operation has the form of `stacks`. The optimiser, the
target copies and the check of gradients work number by number: over few arrays they are a few kernels,
over the leaves of a tree some for each layer.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from qgf_jax.core.reductions import fast_sum
from qgf_jax.training.optimizers import by_group, clip_groups
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
        """Each parameter group's gradient scaled down to the global norm `norm`, by itself.

        Where groups wait, those of one period alone: the others' arrays are masked, as Optax does.
        """

    def labels(self, params: Params, of: Callable[[str], Any]) -> Any:
        """`of` the parameter group of each array; it has to be equal where groups lie in one."""

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
        """The same."""
        return state

    def unpack(self, packed: Any) -> Any:
        """The same."""
        return packed

    def gradient(
        self, params: Params, slow: Params, still: Any, *rest: Any
    ) -> tuple[Params, Metrics]:
        """By the total loss."""

        def loss(params: Params) -> tuple[Array, Metrics]:
            return self._total(params, slow, still, *rest)

        return jax.grad(loss, has_aux=True)(params)

    def checksums(self, grads: Params) -> dict[str, Array]:
        """Of all leaves of each group."""
        return {name: _checksum(group) for name, group in grads.items()}

    def clip(self, grads: Params, norm: float) -> Params:
        """By Optax."""
        return clip_groups(grads, norm)

    def labels(self, params: Params, of: Callable[[str], Any]) -> Any:
        """A prefix of the tree."""
        return by_group(params, of)

    def follow(
        self, slow: Params, source: Params, params: Params, tau: float, due: Mapping[str, Array]
    ) -> Params:
        """By Optax."""
        online: Params = {group: source[group] for group in slow}
        moved: Any = optax.incremental_update(online, slow, tau)
        waiting = {group: optax.tree.where(due[group], moved[group], slow[group]) for group in due}
        return moved | waiting


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
