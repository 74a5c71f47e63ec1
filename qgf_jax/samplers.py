"""Samplers: `factory(nets, *, options) -> sample(params, target_params, obs, key, weight)`.

One observation in, one action chunk out, flattened and inside [-1, 1]. Batch with `jax.vmap`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qgf_jax import flow, guidance
from qgf_jax.networks import Networks, aggregate
from qgf_jax.types import Array, Critic, Params, Sample


def bind_critic(nets: Networks, target_params: Params, obs: Array) -> Critic:
    """Q(obs, ·) of the slow critic: what guides an action is what ranks it."""
    return lambda action: aggregate(nets.apply_ensemble(target_params["critic"], obs, action))


def guided(nets: Networks, *, rule: str = "one_step", num_steps: int = 10) -> Sample:
    """The flow policy under a rule of `guidance.RULES` (Zhou et al., 2026, Algorithm 1)."""

    def sample(
        params: Params, target_params: Params, obs: Array, key: Array, weight: Array
    ) -> Array:
        def velocity(action: Array, t: Array) -> Array:
            return nets.policy.apply(params["policy"], obs, action, t)

        field = guidance.guide(
            velocity, bind_critic(nets, target_params, obs), weight=weight, rule=rule
        )
        noise = jax.random.normal(key, (nets.chunk_dim,))
        return jnp.clip(flow.integrate(field, noise, num_steps=num_steps), -1.0, 1.0)

    return sample


def best_of(nets: Networks, sample: Sample, n: int) -> Sample:
    """Draws `n` actions and keeps the one that the slow critic likes best. 1 is `sample` itself."""
    if n == 1:
        return sample

    def best(params: Params, target_params: Params, obs: Array, key: Array, weight: Array) -> Array:
        keys = jax.random.split(key, n)
        actions = jax.vmap(lambda k: sample(params, target_params, obs, k, weight))(keys)
        return actions[jnp.argmax(jax.vmap(bind_critic(nets, target_params, obs))(actions))]

    return best


SAMPLERS: dict[str, Callable[..., Sample]] = {"guided": guided}
