"""A critic for actions on their way from noise."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from qgf_jax.methods.lazy import flow, jnp, networks
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import Weighted, noise_and_time
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("noisy_q",),
    needs=("target_q",),
    source="Zhou et al., 2026, arXiv 2606.11087, Eq. 20",
)
def _robust_q(nets: "Networks", *, weighted: Weighted = True) -> Learner:
    """Regresses Q(s, a_t, t) on Q(s, a), the target network's at the clean action.

    The critic was not trained on spliced chunks, which `weighted` leaves out.
    """
    return noisy_critic_learner(nets, lambda q, clean: jnp.square(q - clean), weighted)


def noisy_critic_learner(
    nets: "Networks", cost: Callable[[Array, Array], Array], weighted: bool
) -> Learner:
    """Learns Q(s, a_t, t), at t uniform on [0, 1), by `cost`: (Q [], target's Q(s, a) []) -> []."""

    def init(key: Array, obs: Obs, action: Array) -> Params:
        time = networks.sinusoidal(action[0])
        return {"noisy_critic": nets.noisy_critic.init(key, obs, action, time)}

    def noisy_critic(
        params: Params, target_params: Params, x: Batch, drawn: tuple[Array, Array]
    ) -> tuple[Array, Metrics]:
        noise, t = drawn
        a_t, _ = flow.interpolate(noise, x.action, t)
        q = nets.noisy_critic.apply(params["noisy_critic"], x.obs, a_t, networks.sinusoidal(t))
        return cost(q, nets.q_of(target_params["critic"], x.obs)(x.action)), {}

    return Learner(init, {"noisy_critic": Loss(noisy_critic, noise_and_time, weighted)})
