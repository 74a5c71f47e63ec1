"""HIQL: two policies that climb one goal-conditioned V, one of subgoals and one of actions."""

from typing import TYPE_CHECKING

from qgf_jax.methods.lazy import jax, jnp
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.gaussians import (
    GaussianActor,
    InverseTemperature,
    MaxWeight,
    advantage_weight,
)
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("levels",),
    needs=("goal_v", "goal_observations"),
    source="Park et al., 2023, arXiv 2307.11949, Eqs. 6 and 7",
)
def _hiql(
    nets: "Networks",
    *,
    low_inverse_temperature: InverseTemperature = 3.0,
    high_inverse_temperature: InverseTemperature = 3.0,
    max_weight: MaxWeight = 100.0,
) -> Learner:
    """Two policies of one V.

    `high` gives the code of a subgoal on the way to the goal, `low` the action for that code. Both are
    cloned, weighted by how much V rises: with the subgoal as goal over the chunk, with the goal itself
    up to the subgoal. Needs goals that are observations, and networks.goal_code > 0.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        low_key, high_key = jax.random.split(key)
        code = jnp.zeros(nets.high.width)
        return {"low": nets.low.init(low_key, obs, code), "high": nets.high.init(high_key, obs)}

    def code(params: Params, obs: Obs) -> Array:
        return nets.goal_value.apply(params["value"], obs, coded=True)

    def value(params: Params, obs: Obs) -> Array:
        return nets.goal_value.apply(params["value"], obs).mean()

    def low(params: Params, target_params: Params, x: Batch, noise: Array) -> tuple[Array, Metrics]:
        obs, next_obs = (o._replace(goal=x.subgoal) for o in (x.obs, x.next_obs))
        advantage = value(params, next_obs) - value(params, obs)
        mean, log_std = nets.low.apply(params["low"], obs, code(params, obs))
        weight = advantage_weight(advantage, low_inverse_temperature, max_weight)
        return -weight * GaussianActor.log_normal(x.action, mean, jnp.zeros_like(log_std)), {}

    def high(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        there = x.obs._replace(state=x.subgoal_to_goal)  # goals are states here
        advantage = value(params, there) - value(params, x.obs)
        mean, log_std = nets.high.apply(params["high"], x.obs)
        weight = advantage_weight(advantage, high_inverse_temperature, max_weight)
        subgoal = code(params, x.obs._replace(goal=x.subgoal_to_goal))
        return -weight * GaussianActor.log_normal(subgoal, mean, jnp.zeros_like(log_std)), {}

    return Learner(init, {"low": Loss(low), "high": Loss(high)})
