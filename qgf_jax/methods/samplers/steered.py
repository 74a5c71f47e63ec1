"""DSRL's policy: a flow whose noise an actor chooses."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Count, Positive
from qgf_jax.methods.lazy import flow, jax, jnp
from qgf_jax.methods.parts import sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(
    needs=("noise_actor", "flow"),
    ignores=("weight",),
    source="Wagenmaker et al., 2025, arXiv 2506.15799",
)
def _steered(
    nets: "Networks",
    *,
    noise_scale: Annotated[Positive, "factor of the actor's noise"] = 1.0,
    num_steps: Annotated[Count, "steps of the flow"] = 10,
) -> Sample:
    """The flow policy from a noise that an actor chose."""

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del weight
        mean, log_std = nets.gaussian.apply(params["actor"], obs)
        latent = jnp.tanh(mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape))
        velocity = nets.velocity(params["policy"], obs)
        action = flow.integrate(velocity, noise_scale * latent, num_steps=num_steps)
        return nets.clip(action)

    return sample
