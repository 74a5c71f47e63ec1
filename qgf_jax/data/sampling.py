"""Batches of chunks, gathered on the device inside the jitted step."""

from typing import Any

import jax

from qgf_jax.data.chunks import Dataset
from qgf_jax.types import Array, Batch


def gather(dataset: Dataset, start: Array, *, chunk: int) -> Batch:
    """The chunks that begin at the transitions `start` [B], none of the last chunk - 1."""

    def rows(array: Any, index: Array) -> Array:
        # Every index is in bounds by construction; saying so spares a comparison per number.
        return array.at[index].get(mode="promise_in_bounds")

    actions = jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(dataset.action, i, chunk))(start)
    return Batch(
        obs=rows(dataset.obs, rows(dataset.row, start)),
        action=actions.reshape(len(start), -1),
        reward=rows(dataset.reward, start),
        discount=rows(dataset.discount, start),
        next_obs=rows(dataset.obs, rows(dataset.next_row, start)),
        weight=rows(dataset.weight, start),
    )


def draw_starts(dataset: Dataset, key: Array, *, chunk: int, batch_size: int) -> Array:
    """Where the chunks of a batch begin: [B], uniform over all transitions that may, replaced."""
    starts = len(dataset.action) - chunk + 1
    return jax.random.randint(key, (batch_size,), 0, starts)
