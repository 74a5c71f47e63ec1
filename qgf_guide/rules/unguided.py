"""No guidance."""

from qgf_guide.endpoints import one_straight_step
from qgf_guide.lazy import jnp
from qgf_guide.parts import rule
from qgf_guide.types import Array, Critic, Direction, Endpoint, Velocity


@rule(
    ignores=(
        *("weight", "endpoint", "schedule", "cap", "units", "scale", "straight_through"),
        *("slope_clip", "gate", "trust_radius", "skip_first"),
    ),
    source="Zhou et al., 2026, arXiv 2606.11087",
)
def _unguided(velocity: Velocity, q: Critic, endpoint: Endpoint = one_straight_step) -> Direction:
    """The reference policy itself. The critic is never called, so it costs nothing."""
    del q, endpoint

    def direct(action: Array, t: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        return v, jnp.zeros_like(v)

    return direct
