"""Implicit value learning: IQL without an action, for goals."""

from typing import Annotated

import jax
import jax.numpy as jnp

from qgf_jax.bounds import History, OpenFraction
from qgf_jax.core import losses
from qgf_jax.core.networks import Networks
from qgf_jax.types import Array, Batch, Learner, Metrics, Params, Sample


def ivl(
    nets: Networks,
    sample: Sample | None = None,
    *,
    expectile: OpenFraction = 0.9,
    online_code: Annotated[bool, History(past=False)] = False,
) -> Learner:
    """Goal-conditioned V by expectiles (Park et al., 2023, Eqs. 4 and 5; OGBench's GCIVL).

    Member e regresses on reward + discount * slow V_e(next_obs); which side of the expectile an example
    is on is judged by the slow members together: reward + discount * their least - their mean here.

    With networks.goal_code, the slow members see a goal by their own slow copy of the code, or with
    `online_code` by the online code, as in OGBench's HIQL, where all members share one code.
    """
    del sample

    def init(key: Array, obs: Array, action: Array) -> Params:
        del action
        return {"value": nets.goal_value.init(key, obs)}

    def value(params: Params, target: Params, batch: Batch, key: Array) -> tuple[Array, Metrics]:
        del key
        members = target["value"]
        if online_code and nets.goal_value.code:
            code = jax.lax.stop_gradient(params["value"]["params"]["code"])
            members = {"params": members["params"] | {"code": code}}

        def one(x: Batch) -> tuple[Array, Array]:
            slow_next = nets.goal_value.apply(members, x.next_obs)
            slow = nets.goal_value.apply(members, x.obs)
            v = nets.goal_value.apply(params["value"], x.obs)
            advantage = x.reward + x.discount * slow_next.min() - slow.mean()
            side = losses.expectile_weight(advantage, expectile)
            error = x.reward + x.discount * slow_next - v
            return x.weight * side * jnp.sum(error**2), v.mean()

        loss, v = jax.vmap(one)(batch)
        return loss.mean(), {"v_mean": v.mean()}

    return Learner(init, {"value": value}, targets=("value",))
