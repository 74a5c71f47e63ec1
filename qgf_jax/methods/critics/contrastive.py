"""Contrastive reinforcement learning: a critic that tells reached goals from others."""

from typing import TYPE_CHECKING

from qgf_jax.methods.lazy import jnp, optax
from qgf_jax.methods.parts import critic
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@critic(
    provides=("q",),
    needs=("goals",),
    sets={"networks.critic_form": "bilinear", "goals.critic": (0.0, 1.0, 0.0)},
    source="Eysenbach et al., 2022, arXiv 2206.07568",
)
def _contrastive(nets: "Networks", sample: Sample | None = None) -> Learner:
    """Binary noise-contrastive estimation over the global batch (Eysenbach et al., 2022, Eq. 8).

    Q is a logit, phi(state, action) . psi(goal) / sqrt(width), high for the goal of its own row and low
    for those of the other rows. Needs goals that lie ahead in the trajectory and bilinear critics.
    """

    def init(key: Array, obs: Obs, action: Array) -> Params:
        return {"critic": nets.init_ensemble(key, obs, action)}

    def codes(params: Params, target_params: Params, x: Batch, noise: Array) -> tuple[Array, Array]:
        """phi and psi [E, width]."""
        return nets.ensemble_codes(params["critic"], x.obs, x.action)

    def combine(
        mine: tuple[Array, Array], whole: tuple[Array, Array], rows: Array
    ) -> tuple[Array, Metrics]:
        phi, psi = mine[0].swapaxes(0, 1), whole[1].swapaxes(0, 1)  # [E, B or G, width]
        product = jnp.matmul(phi, psi.swapaxes(1, 2), precision=nets.precision)
        logits = product / jnp.sqrt(jnp.float32(phi.shape[2]))  # [E, B states, G goals]
        own = jnp.arange(logits.shape[2])[None] == rows[:, None]
        labels = jnp.broadcast_to(own[None].astype(logits.dtype), logits.shape)
        loss = optax.sigmoid_binary_cross_entropy(logits, labels)
        right = logits.argmax(axis=2) == rows[None]
        return loss.mean(axis=(0, 2)), {"accuracy": right.T}

    return Learner(init, {"critic": Loss(codes, combine=combine)})
