"""No critic, for policies that only imitate."""

from typing import TYPE_CHECKING

from qgf_jax.methods.parts import critic
from qgf_jax.types import Learner, Sample

if TYPE_CHECKING:
    from qgf_jax.core.networks import Networks


@critic()
def _none(nets: "Networks", sample: Sample | None = None) -> Learner:
    """No critic; learns nothing."""
    return Learner(lambda key, obs, action: {}, {})
