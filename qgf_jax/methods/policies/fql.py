"""Flow Q-learning: a one-step actor, distilled from the flow policy and trained to maximise Q."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import NonNegative
from qgf_jax.methods.lazy import jnp
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import NumSteps, flow_end, noise_of_action
from qgf_jax.methods.policies.gaussians import mean_size
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("one_step_actor",),
    needs=("flow", "q", "returns"),
    source="Park et al., 2025b, arXiv 2502.02538; Zhou et al., 2026, Eq. 23",
)
def _fql(
    nets: "Networks",
    *,
    alpha: Annotated[
        NonNegative, "factor of the distance to the flow, in units of Q unless Q is normalised"
    ] = 300.0,
    normalize_q: Annotated[
        bool, "whether Q is divided by its mean size over the global batch"
    ] = False,
    num_steps: NumSteps = 10,
) -> Learner:
    """`alpha` * (actor - end of the flow from the same noise) ** 2 - Q(actor).

    Q is the mean over the online critic.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"actor": nets.one_step.init(key, obs, action, action[0])}

    def distance_and_q(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Array]:
        end = flow_end(nets, params["policy"], x.obs, noise, num_steps)
        action = nets.one_step.apply(params["actor"], x.obs, noise, noise[0])
        q = nets.mean_q(params["critic"], x.obs)(nets.clip(action))
        return jnp.mean((action - end) ** 2), q

    def combine(
        mine: tuple[Array, Array], whole: tuple[Array, Array], rows: Array
    ) -> tuple[Array, Metrics]:
        distance, q = mine
        size = mean_size(whole[1]) if normalize_q else 1.0
        return alpha * distance - q / size, {"distance": distance, "q": q}

    return Learner(init, {"actor": Loss(distance_and_q, noise_of_action, combine=combine)})
