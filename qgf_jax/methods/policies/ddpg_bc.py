"""DDPG+BC: a Gaussian that is cloned and trained to maximise Q."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import NonNegative
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.gaussians import GaussianActor, mean_size
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("gaussian_actor",),
    needs=("q",),
    source="Fujimoto and Gu, 2021, arXiv 2106.06860; GCIQL and CRL of Park et al., 2025a",
)
def _ddpg_bc(
    nets: "Networks",
    *,
    alpha: Annotated[NonNegative, "factor of the loss of cloning, against Q over its size"] = 0.3,
) -> Learner:
    """- Q of the actor's mean over Q's mean size, + `alpha` times cloning.

    As GCIQL and CRL of Park et al. extract their policies; Q is the online critic's.
    """

    gaussian = GaussianActor(nets)

    def cloning_and_q(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Array]:
        action = nets.clip(gaussian.mean(params, x))
        return gaussian.imitation(params, x), nets.q_of(params["critic"], x.obs)(action)

    def combine(
        mine: tuple[Array, Array], whole: tuple[Array, Array], rows: Array
    ) -> tuple[Array, Metrics]:
        cloning, q = mine
        return alpha * cloning - q / (mean_size(whole[1]) + 1e-6), {"cloning": cloning}

    return gaussian.learner(Loss(cloning_and_q, combine=combine))
