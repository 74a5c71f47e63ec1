"""The data's own next chunk: the action that a critic by SARSA bootstraps on."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qgf_jax.types import Array, Batch


class NextChunk(NamedTuple):
    """The chunks that follow the returns of some transitions `at` [B]."""

    action: Any
    """[N, A], of the dataset"""
    at: Array
    n_step: int
    """Steps of a return"""
    chunk: int
    blocks: int
    """How many of one shape the dataset is made of; the next chunk lies in the same one"""

    @staticmethod
    def wanted(config: Mapping[str, Any]) -> bool:
        """Whether a critic of a resolved config bootstraps on the data's next chunk."""
        return any(own.get("next") == "data" for own in config.get("critics", {}).values())

    @property
    def start(self) -> Array:
        """The transition [B] after the return, or the dataset's last if there are no more."""
        return jnp.minimum(self.at + self.n_step, len(self.action) - 1)

    def into(self, batch: Batch, whole: Array) -> Batch:
        """`batch` with its next chunks. `whole` [B]: the trajectory has all of the next chunk.

        Where it has not, there is no action to bootstrap on, and the transition weighs 0, like one whose
        return runs over the end. Where nothing is bootstrapped, as at a success, it counts all the same.
        """
        size = len(self.action) // self.blocks
        here = self.at % size + self.n_step + self.chunk <= size
        known = (whole & here) | (batch.discount == 0)
        cut = jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(self.action, i, self.chunk))
        return batch._replace(
            next_action=cut(self.start).reshape(len(self.at), -1),
            next_weight=jnp.where(known, batch.weight, 0.0),
        )
