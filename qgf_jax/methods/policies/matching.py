"""What the policy learners share: draws of noise and time, the flow's loss, and means over a batch."""

import functools

import jax
import jax.numpy as jnp

from qgf_jax.core import flow, losses
from qgf_jax.core.networks import Networks
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Params


def draw(batch: Batch, key: Array, time_grid: int) -> tuple[Array, Array]:
    """Noise [B, D] and times [B] to train a flow at."""
    time_key, noise_key = jax.random.split(key)
    times = functools.partial(flow.sample_time, time_key, grid=time_grid)
    t = global_batch.draw(times, batch.reward.shape)
    return global_batch.normal(noise_key, batch.action.shape), t


def flow_matching(nets: Networks, group: Params, batch: Batch, key: Array, time_grid: int) -> Array:
    """Flow-matching losses [B] of the velocity field with parameters `group`."""
    noise, t = draw(batch, key, time_grid)
    return jax.vmap(
        lambda x, noise, t: losses.flow_matching(nets.velocity(group, x.obs), x.action, noise, t)
    )(batch, noise, t)


def mean(loss: Array, batch: Batch, weighted: bool = True) -> Array:
    """The mean of `loss` [B]. `weighted`: chunks spliced from two trajectories count as 0."""
    return jnp.mean(batch.weight * loss) if weighted else jnp.mean(loss)
