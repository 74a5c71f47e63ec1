"""FBRAC: a flow policy that is cloned and pushed up the critic, through all of its steps."""

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Count, Index, NonNegative
from qgf_jax.core import flow
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.matching import flow_matching, mean
from qgf_jax.training import global_batch
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def fbrac(
    nets: Networks, *, alpha: NonNegative = 100.0, time_grid: Index = 0, num_steps: Count = 10
) -> Learner:
    """Flow matching - Q(end of the flow) / `alpha`, differentiated through the whole flow.

    The behaviour-regularised actor-critic (Wu et al., 2019) of flows, as in Park et al., 2025.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.policy.init(key, obs, action, action[0])}

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target
        match_key, noise_key = jax.random.split(key)
        noise = global_batch.normal(noise_key, batch.action.shape)

        def value_of_end(x: Batch, noise: Array) -> Array:
            velocity = nets.velocity(params["actor"], x.obs)
            end = flow.integrate(velocity, noise, num_steps=num_steps)
            return nets.mean_q(params["critic"], x.obs)(jnp.clip(end, -1.0, 1.0))

        q = jax.vmap(value_of_end)(batch, noise)
        bc = flow_matching(nets, params["actor"], batch, match_key, time_grid)
        return mean(bc - q / alpha, batch), {"bc_loss": mean(bc, batch), "q": q.mean()}

    return Learner(init, {"actor": actor})
