"""No critic, for policies that only imitate."""

from qgf_jax.core.networks import Networks
from qgf_jax.types import Learner, Sample


def none(nets: Networks, sample: Sample | None = None) -> Learner:
    """Learns nothing."""
    del nets, sample
    return Learner(lambda key, obs, action: {}, {})
