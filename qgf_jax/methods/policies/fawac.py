"""FAWAC: a flow policy cloned from the data, the better actions weighing more."""

import jax
import jax.numpy as jnp

from qgf_jax.bounds import Index, NonNegative, Positive
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies.matching import flow_matching, mean
from qgf_jax.types import Array, Batch, Learner, Metrics, Obs, Params


def fawac(
    nets: Networks,
    *,
    inverse_temperature: NonNegative = 10.0,
    max_weight: Positive = 100.0,
    time_grid: Index = 0,
) -> Learner:
    """Flow matching weighted by exp(inverse_temperature * (Q - V)), at most `max_weight`.

    The advantage-weighted actor-critic (Nair et al., 2020) of flows, as in Park et al., 2025. V, the
    group "baseline", is the mean of the slow critic over the data's own actions.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        actor_key, baseline_key = jax.random.split(key)
        return {
            "actor": nets.policy.init(actor_key, obs, action, action[0]),
            "baseline": nets.value.init(baseline_key, obs),
        }

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target

        def weight(x: Batch) -> Array:
            q = nets.mean_q(params["critic"], x.obs)(x.action)
            advantage = q - nets.value.apply(params["baseline"], x.obs)
            return jnp.minimum(jnp.exp(inverse_temperature * advantage), max_weight)

        weights = jax.vmap(weight)(batch)
        loss = flow_matching(nets, params["actor"], batch, key, time_grid)
        return mean(weights * loss, batch), {"weight_mean": weights.mean()}

    def baseline(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del key

        def one(x: Batch) -> Array:
            q = nets.apply_ensemble(target["critic"], x.obs, x.action)
            return jnp.mean((q - nets.value.apply(params["baseline"], x.obs)) ** 2)

        return mean(jax.vmap(one)(batch), batch), {}

    return Learner(init, {"actor": actor, "baseline": baseline})
