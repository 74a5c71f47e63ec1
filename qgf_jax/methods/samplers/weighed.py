"""QGF under a weight that the run has chosen from its data."""

from typing import TYPE_CHECKING, Annotated

from qgf_jax.bounds import Count
from qgf_jax.methods.parts import Names, part, sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(needs=("flow", "q", "weights"))
def _weighed(
    nets: "Networks",
    *,
    by: Annotated[str, Names("criterion"), "what the weight was chosen by"] = "distance",
    num_steps: Annotated[Count, "steps of the flow"] = 10,
) -> Sample:
    """As `guided` under QGF's rule; the weight is a factor of the run's own, 1 being that."""
    guided = part("sampler", "guided").make(nets, rule="one_step", num_steps=num_steps)

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        return guided(params, obs, key, weight * params["calibration"]["weights"][by])

    return sample
