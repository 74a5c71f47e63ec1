"""Gaussian policies."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import NonNegative
from qgf_jax.methods.lazy import checks, jax, jnp
from qgf_jax.methods.parts import sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(
    needs=("gaussian_actor",),
    ignores=("weight",),
    source="Kostrikov et al., 2022, arXiv 2110.06169",
)
def _gaussian(
    nets: "Networks",
    *,
    squash: Annotated[bool, "whether tanh brings the action into the box; else a clip"] = False,
    temperature: Annotated[NonNegative, "factor of the standard deviation; 0: the mean"] = 0.0,
) -> Sample:
    """The mean of a Gaussian, or a draw with `temperature` times its standard deviation."""

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del weight
        mean, log_std = nets.gaussian.apply(params["actor"], obs)
        if not checks.is_off(temperature):
            noise = jax.random.normal(key, mean.shape)
            mean = mean + temperature * jnp.exp(log_std) * noise
        return jnp.tanh(mean) if squash else nets.clip(mean)

    return sample
