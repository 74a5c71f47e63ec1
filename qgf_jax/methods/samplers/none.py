"""No policy, for runs that learn critics alone."""

from typing import TYPE_CHECKING

from qgf_jax.errors import UserError
from qgf_jax.methods.parts import sampler
from qgf_jax.types import Array, Obs, Params, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@sampler(ignores=("weight",))
def _none(nets: "Networks") -> Sample:
    """No policy; gives no action."""

    def sample(params: Params, obs: Obs, key: Array, weight: Array) -> Array:
        raise UserError("there is no policy to act: name a method that has one")

    return sample
