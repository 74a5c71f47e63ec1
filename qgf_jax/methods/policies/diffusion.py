"""Diffusion policies that learn from the critic's gradient at the noised action: QSM and DAC."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Count, NonNegative
from qgf_jax.core import diffusion
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.matching import mean
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def qsm(
    nets: Networks,
    *,
    inverse_temperature: NonNegative = 0.1,
    bc_weight: NonNegative = 10.0,
    num_steps: Count = 10,
) -> Learner:
    """Q-score matching: the predicted noise is -inverse_temperature * dQ/da_k.

    Psenka et al., 2024; Zhou et al., 2026, Eq. 21, with `bc_weight` times the loss of
    behavioural cloning, 0 for the method without it.
    """

    def loss(predicted: Array, noise: Array, slope: Array, product: Array) -> Array:
        matched = jnp.mean((-inverse_temperature * slope - predicted) ** 2)
        return matched + bc_weight * jnp.mean((noise - predicted) ** 2)

    return _learner(nets, loss, num_steps)


def dac(nets: Networks, *, bc_weight: NonNegative = 100.0, num_steps: Count = 10) -> Learner:
    """Diffusion actor-critic: behavioural cloning, its noise tilted against dQ/da_k.

    Fang et al., 2025; Zhou et al., 2026, Eq. 22, as the public code has it: the least of the loss
    is at noise - sqrt(1 - product) / (2 bc_weight) * dQ/da_k.
    """

    def loss(predicted: Array, noise: Array, slope: Array, product: Array) -> Array:
        tilt = jnp.sqrt(1.0 - product) * jnp.mean(slope * predicted)
        return tilt + bc_weight * jnp.mean((noise - predicted) ** 2)

    return _learner(nets, loss, num_steps)


def _learner(nets: Networks, loss: Callable[..., Array], num_steps: int) -> Learner:
    """`loss(predicted [D], noise [D], slope [D], product [])`; the slope is the slow critic's."""
    _, products = diffusion.alphas(num_steps)

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.diffusion.init(key, obs, action, action[0])}

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        step_key, noise_key = jax.random.split(key)
        k = global_batch.randint(step_key, batch.reward.shape, 1, num_steps + 1)
        noise = global_batch.normal(noise_key, batch.action.shape)

        def one(x: Batch, noise: Array, k: Array) -> Array:
            product = jnp.asarray(products)[k]
            a_k = diffusion.mix(x.action, noise, product)
            slope = jax.grad(nets.mean_q(target["critic"], x.obs))(a_k)
            predicted = nets.predict_noise(params["actor"], x.obs, a_k, k, num_steps)
            return loss(predicted, noise, slope, product)

        return mean(jax.vmap(one)(batch, noise, k), batch), {}

    return Learner(init, {"actor": actor})
