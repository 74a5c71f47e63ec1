"""A Gaussian that is cloned where a goal-conditioned V rises."""

from typing import TYPE_CHECKING

from qgf_jax.methods.parts import policy
from qgf_jax.methods.policies.gaussians import (
    GaussianActor,
    InverseTemperature,
    MaxWeight,
    advantage_weight,
)
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Obs, Params

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@policy(
    provides=("gaussian_actor",),
    needs=("goal_v",),
    source="Park et al., 2025a, arXiv 2410.20092, GCIVL",
)
def _value_awr(
    nets: "Networks",
    *,
    inverse_temperature: InverseTemperature = 10.0,
    max_weight: MaxWeight = 100.0,
) -> Learner:
    """Cloning weighted by exp(inverse_temperature * (V(next_obs) - V(obs)))."""

    gaussian = GaussianActor(nets)

    def actor(
        params: Params, target_params: Params, x: Batch, noise: Array
    ) -> tuple[Array, Metrics]:
        def value(obs: Obs) -> Array:
            return nets.goal_value.apply(params["value"], obs).mean()

        advantage = value(x.next_obs) - value(x.obs)
        weight = advantage_weight(advantage, inverse_temperature, max_weight)
        return weight * gaussian.imitation(params, x), {}

    return gaussian.learner(Loss(actor))
