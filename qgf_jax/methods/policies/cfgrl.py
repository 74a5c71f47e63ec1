"""Classifier-free guidance: one flow for all actions and one for the better than average."""

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Finite, Index, Positive
from qgf_jax.core import losses
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.matching import draw, mean
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def cfgrl(
    nets: Networks,
    *,
    threshold: Finite = 0.0,
    unconditional: Positive = 0.1,
    time_grid: Index = 0,
    weighted: bool = True,
) -> Learner:
    """Flow matching with label 1 where Q(s, a) - V(s) > `threshold`, and with label 0 everywhere.

    Frans et al., 2025; the second loss counts `unconditional`. Needs a critic with a value.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.labelled.init(key, obs, action, action[0], jnp.int32(0))}

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        def one(x: Batch, noise: Array, t: Array) -> tuple[Array, Array]:
            def matched(label: int) -> Array:
                def velocity(action: Array, t: Array) -> Array:
                    return nets.labelled.apply(params["actor"], x.obs, action, t, jnp.int32(label))

                return losses.flow_matching(velocity, x.action, noise, t)

            value = nets.value.apply(params["value"], x.obs)
            better = nets.q_of(target["critic"], x.obs)(x.action) - value > threshold
            return jnp.where(better, matched(1), 0.0) + unconditional * matched(0), better

        loss, better = jax.vmap(one)(batch, *draw(batch, key, time_grid))
        return mean(loss, batch, weighted), {"better": better.mean()}

    return Learner(init, {"actor": actor})
