"""Advantage-weighted regression: IQL's own actor."""

from typing import TYPE_CHECKING

from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.gaussians import (
    GaussianActor,
    InverseTemperature,
    MaxWeight,
    advantage_weight,
)
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("gaussian_actor",),
    needs=("target_q", "v"),
    source="Kostrikov et al., 2022, arXiv 2110.06169, Eq. 7",
)
def _awr(
    nets: "Networks",
    *,
    inverse_temperature: InverseTemperature = 3.0,
    max_weight: MaxWeight = 100.0,
) -> Learner:
    """IQL's own actor: log likelihood weighted by exp(inverse_temperature * (Q - V)).

    Q is the aggregate, by default the least, of the target network's members.
    """

    gaussian = GaussianActor(nets)

    def actor(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        value = nets.value.apply(params["value"], x.obs)
        advantage = nets.q_of(target_params["critic"], x.obs)(x.action) - value
        weight = advantage_weight(advantage, inverse_temperature, max_weight)
        density = gaussian.log_density(params, x)
        return -weight * density, {"weight_mean": weight}

    return gaussian.learner(Loss(actor))
