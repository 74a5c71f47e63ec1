"""Behavioural cloning by a Gaussian."""

from typing import TYPE_CHECKING

from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.gaussians import GaussianActor
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(provides=("gaussian_actor",), source="Park et al., 2025a, arXiv 2410.20092, GCBC")
def _gaussian_bc(nets: "Networks") -> Learner:
    """Behavioural cloning by a Gaussian of unit variance."""

    gaussian = GaussianActor(nets)

    def actor(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        return gaussian.imitation(params, x), {}

    return gaussian.learner(Loss(actor))
