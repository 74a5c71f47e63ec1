"""Policies that climb a goal-conditioned V, in one level and in two."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from qgf_jax.bounds import NonNegative, Positive
from qgf_jax.core.networks import Networks
from qgf_jax.methods.policies import gaussian
from qgf_jax.methods.policies.gaussian import imitation, log_density
from qgf_jax.methods.policies.matching import mean
from qgf_jax.types import Array, Batch, Learner, Metrics, Params


def _value(nets: Networks, params: Params) -> Callable[[Array], Array]:
    return lambda obs: nets.goal_value.apply(params["value"], obs).mean()


def _weight(advantage: Array, inverse_temperature: float, max_weight: float) -> Array:
    return jnp.minimum(jnp.exp(inverse_temperature * advantage), max_weight)


def value_awr(
    nets: Networks, *, inverse_temperature: NonNegative = 10.0, max_weight: Positive = 100.0
) -> Learner:
    """Cloning weighted by exp(inverse_temperature * (V(next_obs) - V(obs))), as in GCIVL."""

    def actor(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target, key
        value = _value(nets, params)

        def one(x: Batch) -> Array:
            advantage = value(x.next_obs) - value(x.obs)
            weight = _weight(advantage, inverse_temperature, max_weight)
            return weight * imitation(nets, params["actor"], x)

        return mean(jax.vmap(one)(batch), batch), {}

    return Learner(functools.partial(gaussian.init, nets), {"actor": actor})


def hiql(
    nets: Networks,
    *,
    low_inverse_temperature: NonNegative = 3.0,
    high_inverse_temperature: NonNegative = 3.0,
    max_weight: Positive = 100.0,
) -> Learner:
    """Two policies of one V (Park et al., 2023, Eqs. 6 and 7).

    `high` gives the code of a waypoint on the way to the goal, `low` the action for that code. Both are
    cloned, weighted by how much V rises: with the waypoint as goal over the chunk, with the goal
    itself up to the waypoint. Needs goals that are observations, and networks.goal_code > 0.
    """

    def init(key: Array, obs: Array, action: Array) -> Params:
        del action
        low_key, high_key = jax.random.split(key)
        code = jnp.zeros(nets.high.width)
        return {"low": nets.low.init(low_key, obs, code), "high": nets.high.init(high_key, obs)}

    def code(params: Params, obs: Array) -> Array:
        return nets.goal_value.apply(params["value"], obs, coded=True)

    def at(obs: Array, goal: Array) -> Array:
        """The observation `obs` with another goal."""
        return obs.at[-nets.spec.goal_dim :].set(goal)

    def low(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target, key
        value = _value(nets, params)

        def one(x: Batch) -> Array:
            obs = at(x.obs, x.waypoint)
            advantage = value(at(x.next_obs, x.waypoint)) - value(obs)
            mean, log_std = nets.low.apply(params["low"], obs, code(params, obs))
            weight = _weight(advantage, low_inverse_temperature, max_weight)
            return -weight * log_density(x.action, mean, jnp.zeros_like(log_std))

        return mean(jax.vmap(one)(batch), batch), {}

    def high(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del target, key
        value = _value(nets, params)

        def one(x: Batch) -> Array:
            there = jnp.concatenate([x.waypoint_to_goal, x.obs[-nets.spec.goal_dim :]])
            advantage = value(there) - value(x.obs)
            mean, log_std = nets.high.apply(params["high"], x.obs)
            weight = _weight(advantage, high_inverse_temperature, max_weight)
            subgoal = code(params, at(x.obs, x.waypoint_to_goal))
            return -weight * log_density(subgoal, mean, jnp.zeros_like(log_std))

        return mean(jax.vmap(one)(batch), batch), {}

    return Learner(init, {"low": low, "high": high})
