"""Implicit value learning: IQL without an action, for goals."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import History, OpenFraction
from qgf_jax.methods.lazy import jax, jnp, losses
from qgf_jax.methods.parts import critic
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@critic(
    provides=("goal_v",),
    needs=("goals",),
    source="Park et al., 2023, arXiv 2307.11949, Eqs. 4 and 5; GCIVL of arXiv 2410.20092",
)
def _ivl(
    nets: "Networks",
    sample: Sample | None = None,
    *,
    expectile: Annotated[OpenFraction, "level of V's expectile"] = 0.9,
    online_code: Annotated[
        bool,
        "whether target networks see a goal by the online code, as in the benchmark's HIQL",
        History(past=False),
    ] = False,
) -> Learner:
    """Implicit value learning: goal-conditioned V by expectiles.

    Member e regresses on reward + discount * V_e(next_obs) of its target network; which side of the
    expectile an example is on is judged by the target members together: reward + discount * their
    least - their mean here.

    With networks.goal_code, the target members see a goal by their own copy of the code, or with
    `online_code` by the online code, which all members share.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"value": nets.goal_value.init(key, obs)}

    def target_members(params: Params, target_params: Params) -> Params:
        members = target_params["value"]
        if not (online_code and nets.goal_value.code):
            return members
        code = jax.lax.stop_gradient(params["value"]["params"]["code"])
        return {"params": members["params"] | {"code": code}}

    def value(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        members = target_members(params, target_params)
        target_next = nets.goal_value.apply(members, x.next_obs)
        target_v = nets.goal_value.apply(members, x.obs)
        v = nets.goal_value.apply(params["value"], x.obs)
        advantage = x.reward + x.discount * target_next.min() - target_v.mean()
        error = x.reward + x.discount * target_next - v
        weight = losses.expectile_weight(advantage, expectile)
        return weight * jnp.sum(error**2), {"v_mean": v.mean()}

    return Learner(init, {"value": Loss(value)}, targets=("value",))
