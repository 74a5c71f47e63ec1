"""Efficient diffusion policy, for flows: ascend Q at the one-step endpoint while training."""

import functools
from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import NonNegative
from qgf_jax.methods.lazy import flow, jnp
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import TimeGrid, Weighted, noise_and_time
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("actor_flow",),
    needs=("target_q", "returns"),
    source="Kang et al., 2023, arXiv 2305.20081",
)
def _edp(
    nets: "Networks",
    *,
    bc_weight: Annotated[
        NonNegative, "factor of the loss of behavioural cloning, in units of Q"
    ] = 100.0,
    time_grid: TimeGrid = 0,
    weighted: Weighted = True,
) -> Learner:
    """`bc_weight` * flow matching - Q(endpoint), the clip of the endpoint differentiated.

    As Zhou et al., 2026, do it for flows.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.policy.init(key, obs, action, action[0])}

    def actor(
        params: Params, target_params: Params, x: Batch, drawn: tuple[Array, Array]
    ) -> tuple[Array, Metrics]:
        noise, t = drawn
        a_t, direction = flow.interpolate(noise, x.action, t)
        v = nets.velocity(params["actor"], x.obs)(a_t, t)
        q = nets.q_of(target_params["critic"], x.obs)(flow.endpoint(a_t, t, v, clip=nets.spec.clip))
        bc = jnp.mean((v - direction) ** 2)
        return bc_weight * bc - q, {"bc_loss": x.weight * bc, "q": q}

    draw = functools.partial(noise_and_time, time_grid=time_grid)
    return Learner(init, {"actor": Loss(actor, draw, weighted)})
