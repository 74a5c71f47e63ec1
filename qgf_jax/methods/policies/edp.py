"""Efficient diffusion policy, for flows: ascend Q at the one-step endpoint while training."""

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Index, NonNegative
from qgf_jax.core import flow
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.matching import draw, mean
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def edp(
    nets: Networks, *, bc_weight: NonNegative = 100.0, time_grid: Index = 0, weighted: bool = True
) -> Learner:
    """`bc_weight` * flow matching - Q(endpoint), the clip of the endpoint differentiated.

    Kang et al., 2023, as Zhou et al., 2026, do it for flows. `bc_weight` has the units of Q.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.policy.init(key, obs, action, action[0])}

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        def one(x: Batch, noise: Array, t: Array) -> tuple[Array, Array]:
            a_t, goal = flow.interpolate(noise, x.action, t)
            v = nets.velocity(params["actor"], x.obs)(a_t, t)
            q = nets.q_of(target["critic"], x.obs)(flow.endpoint(a_t, t, v))
            return jnp.mean((v - goal) ** 2), q

        bc, q = jax.vmap(one)(batch, *draw(batch, key, time_grid))
        loss = mean(bc_weight * bc - q, batch, weighted)
        return loss, {"bc_loss": mean(bc, batch), "q": q.mean()}

    return Learner(init, {"actor": actor})
