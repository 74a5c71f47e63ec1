"""Q-learning with adjoint matching: a second flow, tilted by the critic's gradient."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import NonNegative
from qgf_jax.methods.lazy import adjoint, jax
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import NumSteps
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("actor_flow",),
    needs=("flow", "target_q", "returns"),
    source="Li and Levine, 2026, arXiv 2601.14234; Zhou et al., 2026, Eqs. 24 and 25",
)
def _qam(
    nets: "Networks",
    *,
    inverse_temperature: Annotated[
        NonNegative, "factor of Q in the tilt, one over a temperature in units of Q"
    ] = 1.0,
    adjoint_ahead: Annotated[
        bool, "whether the adjoint's base drift is taken one step ahead, as in the public code"
    ] = False,
    adjoint_weighted: Annotated[
        bool, "whether chunks that are spliced from two trajectories count as 0"
    ] = True,
    num_steps: NumSteps = 10,
) -> Learner:
    """A flow whose ends follow policy * exp(inverse_temperature * Q).

    The base is the target copy of the flow policy, the critic the mean of its target network's
    members. In a consistent discretisation the base drift ahead of the path and on it are the same.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.policy.init(key, obs, action, action[0])}

    def actor(params: Params, target_params: Params, x: Batch, key: Array) -> tuple[Array, Metrics]:
        frozen = nets.velocity(jax.lax.stop_gradient(params["actor"]), x.obs)
        base = nets.velocity(target_params["policy"], x.obs)

        def q(action: Array) -> Array:
            return nets.mean_q(target_params["critic"], x.obs)(nets.clip(action))

        def gradient(end: Array) -> Array:
            return -inverse_temperature * jax.grad(q)(end)

        loss = adjoint.matching_loss(
            nets.velocity(params["actor"], x.obs),
            frozen,
            base,
            gradient,
            key,
            nets.chunk_dim,
            num_steps=num_steps,
            ahead=adjoint_ahead,
        )
        return loss, {}

    return Learner(init, {"actor": Loss(actor, weighted=adjoint_weighted)}, targets=("policy",))
