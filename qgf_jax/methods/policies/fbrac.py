"""FBRAC: a flow policy that is cloned and trained to maximise Q, through all of its steps."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import NonNegative
from qgf_jax.methods.lazy import flow, jax, losses
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import (
    NumSteps,
    TimeGrid,
    noise_and_time,
    noise_of_action,
)
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("actor_flow",), needs=("q", "returns"), source="Park et al., 2025b, arXiv 2502.02538"
)
def _fbrac(
    nets: "Networks",
    *,
    alpha: Annotated[NonNegative, "what Q is divided by, in units of Q"] = 100.0,
    time_grid: TimeGrid = 0,
    num_steps: NumSteps = 10,
) -> Learner:
    """Flow matching - Q(end of the flow) / `alpha`, differentiated through the whole flow.

    The behaviour-regularised actor-critic (Wu et al., 2019) of flows.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.policy.init(key, obs, action, action[0])}

    def draw(key: Array, size: int, x: Batch) -> tuple[tuple[Array, Array], Array]:
        match_key, start_key = jax.random.split(key)
        return noise_and_time(match_key, size, x, time_grid), noise_of_action(start_key, size, x)

    def actor(
        params: Params, target_params: Params, x: Batch, drawn: tuple[tuple[Array, Array], Array]
    ) -> tuple[Array, Metrics]:
        matched_at, start = drawn
        velocity = nets.velocity(params["actor"], x.obs)
        end = nets.clip(flow.integrate(velocity, start, num_steps=num_steps))
        q = nets.mean_q(params["critic"], x.obs)(end)
        bc = losses.flow_matching(velocity, x.action, *matched_at)
        return bc - q / alpha, {"bc_loss": x.weight * bc, "q": q}

    return Learner(init, {"actor": Loss(actor, draw)})
