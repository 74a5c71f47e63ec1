"""Diffusion actor-critic: a diffusion policy cloned from the data, tilted by the critic's gradient."""

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
    source="Fang et al., 2025, arXiv 2405.20555; Zhou et al., 2026, Eq. 22",
)
def _dac(
    nets: "Networks",
    *,
    bc_weight: Annotated[NonNegative, "factor of the loss of behavioural cloning"] = 100.0,
    num_steps: NumSteps = 10,
) -> Learner:
    """Diffusion actor-critic: behavioural cloning, its noise tilted against dQ/da_k.

    As the public code has it: the minimum of the loss is at
    noise - sqrt(1 - product) / (2 bc_weight) * dQ/da_k.
    """

    def loss(predicted: Array, noise: Array, gradient: Array, product: Array) -> Array:
        tilt = jnp.sqrt(1.0 - product) * jnp.mean(gradient * predicted)
        return tilt + bc_weight * jnp.mean((noise - predicted) ** 2)

    return noise_predictor(nets, loss, num_steps)
