"""A rule that asks a network for the direction, and no critic for its gradient."""

from qgf_guide.endpoints import one_straight_step
from qgf_guide.parts import rule
from qgf_guide.types import Direction, Endpoint, Velocity


@rule(
    needs=("slope",),
    ignores=("endpoint", "scale", "straight_through"),
    source="AGF, 2026, arXiv 2609.34944",
)
def _learned_slope(
    velocity: Velocity, slope: Velocity, endpoint: Endpoint = one_straight_step
) -> Direction:
    """AGF: the slope of Q through the remaining flow, as a network slope(action, t) has learned it."""
    del endpoint
    return lambda action, t: (velocity(action, t), slope(action, t))
