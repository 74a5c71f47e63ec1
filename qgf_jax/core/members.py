"""Ensembles whose members share inputs."""

from collections.abc import Callable
from typing import Any

import jax
from jax.custom_batching import custom_vmap

from qgf_jax.core.reductions import in_training


def over_members(apply: Callable[..., Any], members: Any, *inputs: Any) -> Any:
    """`apply(member, *inputs)` of each member: leaves [E, …].

    In training a vmap over a batch of the inputs goes inside the one over members. The other way round,
    which is what plain vmaps do, XLA transposes the activations at each layer, which doubles the cost of
    a small critic on a CPU. In exchange, training cannot differentiate it *inside* the loss of an
    example; `Networks.q_of` and `mean_q` are made for that.
    """

    def plain(members: Any, *inputs: Any) -> Any:
        return jax.vmap(lambda member: apply(member, *inputs))(members)

    if not in_training():
        return plain(members, *inputs)
    ensemble = custom_vmap(plain)

    @ensemble.def_vmap
    def batched(size: int, mapped: Any, members: Any, *inputs: Any) -> tuple[Any, Any]:
        axes = jax.tree.map(lambda is_mapped: 0 if is_mapped else None, mapped)
        if any(jax.tree.leaves(mapped[0])):
            outputs = jax.vmap(plain, in_axes=tuple(axes))(members, *inputs)
        else:
            batch = jax.vmap(apply, in_axes=(None, *axes[1:]))
            stacked = jax.vmap(lambda member: batch(member, *inputs))(members)  # [E, B, …]
            outputs = jax.tree.map(lambda x: x.swapaxes(0, 1), stacked)
        return outputs, jax.tree.map(lambda _: True, outputs)

    return ensemble(members, *inputs)
