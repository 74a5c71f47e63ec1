"""Q-score matching: a diffusion policy whose score is the critic's gradient."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import NonNegative
from qgf_jax.methods.lazy import jnp
from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.flow_loss import NumSteps
from qgf_jax.methods.policies.noise_prediction import noise_predictor
from qgf_jax.types import Array, Learner

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("diffusion_actor",),
    needs=("target_q", "returns"),
    source="Psenka et al., 2024, arXiv 2312.11752; Zhou et al., 2026, Eq. 21",
)
def _qsm(
    nets: "Networks",
    *,
    inverse_temperature: Annotated[
        NonNegative, "factor of the critic's gradient, one over a temperature in units of Q"
    ] = 0.1,
    bc_weight: Annotated[NonNegative, "factor of the loss of behavioural cloning; 0: none"] = 10.0,
    num_steps: NumSteps = 10,
) -> Learner:
    """Q-score matching: the predicted noise is -inverse_temperature * dQ/da_k."""

    def loss(predicted: Array, noise: Array, gradient: Array, product: Array) -> Array:
        matched = jnp.mean((-inverse_temperature * gradient - predicted) ** 2)
        return matched + bc_weight * jnp.mean((noise - predicted) ** 2)

    return noise_predictor(nets, loss, num_steps)
