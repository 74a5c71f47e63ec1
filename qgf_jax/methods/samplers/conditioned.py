"""CFGRL: classifier-free guidance."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Count
from qgf_jax.methods.lazy import flow, jax, jnp, prepared
from qgf_jax.methods.parts import sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(needs=("labelled_flow",), source="Frans et al., 2025, arXiv 2505.23458")
def _conditioned(
    nets: "Networks", *, num_steps: Annotated[Count, "steps of the flow"] = 10
) -> Sample:
    """v(label 0) + weight * (v(label 1) - v(label 0))."""

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        labelled = prepared.network(nets.labelled, params["actor"], obs)

        def velocity(action: Array, t: Array) -> Array:
            plain, better = jax.vmap(lambda label: labelled(action, t, label))(jnp.arange(2))
            return plain + weight * (better - plain)

        noise = nets.noise(key)
        return nets.clip(flow.integrate(velocity, noise, num_steps=num_steps))

    return sample
