"""A flow policy that a learner has improved, alone."""

from typing import TYPE_CHECKING, Annotated

from qgf_guide.bounds import Count
from qgf_jax.methods.lazy import flow
from qgf_jax.methods.parts import sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(needs=("actor_flow",), ignores=("weight",), source="Zhou et al., 2026, arXiv 2606.11087")
def _actor_flow(
    nets: "Networks", *, num_steps: Annotated[Count, "steps of the flow"] = 10
) -> Sample:
    """The end of the actor's flow."""

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del weight
        noise = nets.noise(key)
        action = flow.integrate(nets.velocity(params["actor"], obs), noise, num_steps=num_steps)
        return nets.clip(action)

    return sample
