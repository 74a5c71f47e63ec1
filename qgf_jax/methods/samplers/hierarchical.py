"""HIQL's two levels."""

from typing import TYPE_CHECKING

from qgf_jax.methods.parts import sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(needs=("levels",), ignores=("weight",), source="Park et al., 2023, arXiv 2307.11949")
def _hierarchical(nets: "Networks") -> Sample:
    """The high policy's mean as the code of a subgoal, and the low policy's mean for that code."""

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        del key, weight
        code = nets.subgoal(params["high"], obs)
        return nets.clip(nets.low.apply(params["low"], obs, code)[0])

    return sample
