"""A critic of the noise that the flow policy starts at."""

from typing import TYPE_CHECKING

from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import NumSteps, flow_end, noise_of_action
from qgf_jax.methods.table import acting_params
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("seed_q",),
    needs=("flow", "target_q"),
    source="after Dong et al., 2026, arXiv 2604.19730",
)
def _seed_critic(nets: "Networks", *, num_steps: NumSteps = 10) -> Learner:
    """Regresses Q(s, z) on Q(s, a(z)), a(z) being the action that the flow policy makes of noise z.

    The flow is deterministic, so there is nothing to average over. Q is what best-of-N ranks by, in its
    units, see `Networks.rank_of`. Neither flow nor Q is differentiated. The source filters candidates
    in rounds with temporal differences; with one round, before the first step, that is this regression.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"seed_critic": nets.seed_critic.init(key, obs, action)}

    def seed_critic(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        acting = acting_params(params, target_params)
        action = flow_end(nets, acting["policy"], x.obs, noise, num_steps)
        q = nets.rank_of(acting, x.obs)(action)
        guess = nets.seed_critic.apply(params["seed_critic"], x.obs, noise)
        return (guess - q) ** 2, {"q": q}

    return Learner(init, {"seed_critic": Loss(seed_critic, noise_of_action)})
