"""DSRL: an actor that chooses the noise of the flow policy."""

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Count, Finite, Positive
from qgf_jax.core import flow
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.gaussian import log_density
from qgf_jax.methods.policies.matching import mean
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def squashed(mean: Array, log_std: Array, key: Array) -> tuple[Array, Array]:
    """A draw tanh(x), x ~ N(mean, std), and its log density (Haarnoja et al., 2018, appendix C)."""
    x = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
    # log (1 - tanh(x) ** 2) in a form that neither over- nor underflows.
    bend = 2.0 * (jnp.log(2.0) - x - jax.nn.softplus(-2.0 * x))
    return jnp.tanh(x), log_density(x, mean, log_std) - bend.sum()


def dsrl(
    nets: Networks,
    *,
    noise_scale: Positive = 1.0,
    target_entropy: Finite = -0.5,
    weighted: bool = True,
    num_steps: Count = 10,
) -> Learner:
    """Steers the flow policy by its noise: a squashed Gaussian over z, and a critic of z.

    Wagenmaker et al., 2025. `noise_scale` times the draw starts the slow flow; each member of the
    critic of z regresses on its member of Q at the flow's end, and soft actor-critic in z has its
    temperature tuned to `target_entropy` a number of z.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        actor_key, critic_key = jax.random.split(key)
        return {
            "actor": nets.gaussian.init(actor_key, obs),
            "latent_critic": nets.init_ensemble(critic_key, obs, action),
            "temperature": jnp.zeros(()),
        }

    def draw(params: Params, x: Batch, key: Array) -> tuple[Array, Array]:
        return squashed(*nets.gaussian.apply(params["actor"], x.obs), key)

    def keys(batch: Batch, key: Array) -> Array:
        return global_batch.split(key, len(batch.reward))

    def critic(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        noise = global_batch.normal(key, batch.action.shape)

        def one(x: Batch, noise: Array) -> Array:
            velocity = nets.velocity(target["policy"], x.obs)
            end = jnp.clip(flow.integrate(velocity, noise, num_steps=num_steps), -1.0, 1.0)
            goal = nets.apply_ensemble(params["critic"], x.obs, end)
            return jnp.mean(
                (nets.apply_ensemble(params["latent_critic"], x.obs, noise) - goal) ** 2
            )

        return mean(jax.vmap(one)(batch, noise), batch, weighted), {}

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target
        heat = jnp.exp(params["temperature"])

        def one(x: Batch, key: Array) -> Array:
            latent, density = draw(params, x, key)
            q = nets.mean_q(params["latent_critic"], x.obs)(noise_scale * latent)
            return heat * density - q

        return mean(jax.vmap(one)(batch, keys(batch, key)), batch, weighted), {}

    def temperature(
        params: Params, target: Params, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        del target
        density = jax.vmap(lambda x, k: draw(params, x, k)[1])(batch, keys(batch, key))
        entropy = -jnp.mean(density)
        heat = jnp.exp(params["temperature"])
        return heat * (entropy - target_entropy * nets.chunk_dim), {"entropy": entropy}

    losses = {"latent_critic": critic, "actor": actor, "temperature": temperature}
    return Learner(init, losses, targets=("policy",))
