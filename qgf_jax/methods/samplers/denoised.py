"""Diffusion policies."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Count
from qgf_jax.methods.lazy import diffusion
from qgf_jax.methods.parts import sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(
    needs=("diffusion_actor",),
    ignores=("weight",),
    source="Ho et al., 2020, arXiv 2006.11239",
)
def _denoised(
    nets: "Networks",
    *,
    posterior: Annotated[bool, "steps from the posterior; false: the public code's chain"] = True,
    num_steps: Annotated[Count, "steps of the diffusion"] = 10,
) -> Sample:
    """Ancestral sampling of a diffusion policy, see `NoiseSchedule.sample`."""

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del weight

        def noise(action: Array, k: Array) -> Array:
            return nets.predict_noise(params["actor"], obs, action, k, num_steps)

        schedule = diffusion.NoiseSchedule.of(num_steps)
        return schedule.sample(noise, key, nets.chunk_dim, posterior=posterior, clip=nets.clip)

    return sample
