"""FQL's actor."""

from typing import TYPE_CHECKING

from qgf_jax.methods.parts import sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(
    needs=("one_step_actor",),
    ignores=("weight",),
    source="Park et al., 2025b, arXiv 2502.02538",
)
def _one_shot(nets: "Networks") -> Sample:
    """One pass from noise to action."""

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del weight
        noise = nets.noise(key)
        return nets.clip(nets.one_step.apply(params["actor"], obs, noise, noise[0]))

    return sample
