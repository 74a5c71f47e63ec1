"""Batches of chunks, gathered on the device inside the jitted step."""

import jax
import jax.numpy as jnp

from qgf_jax.data.chunks import Dataset
from qgf_jax.types import Array, Batch


def gather(dataset: Dataset, start: Array, *, chunk: int) -> Batch:
    """The chunks that begin at the transitions `start` [B]."""
    actions = jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(dataset.action, i, chunk))(start)
    return Batch(
        obs=jnp.take(dataset.obs, jnp.take(dataset.row, start), axis=0),
        action=actions.reshape(len(start), -1),
        reward=jnp.take(dataset.reward, start),
        discount=jnp.take(dataset.discount, start),
        next_obs=jnp.take(dataset.obs, jnp.take(dataset.next_row, start), axis=0),
        weight=jnp.take(dataset.weight, start),
    )


def sample(dataset: Dataset, key: Array, *, chunk: int, batch_size: int) -> Batch:
    """A batch of uniformly drawn chunks, with replacement."""
    starts = len(dataset.action) - chunk + 1
    return gather(dataset, jax.random.randint(key, (batch_size,), 0, starts), chunk=chunk)
