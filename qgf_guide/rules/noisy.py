"""Rules that ask the critic at the action on its way, and not at an endpoint."""

from typing import Any

from qgf_guide.endpoints import one_straight_step
from qgf_guide.lazy import jax
from qgf_guide.parts import rule
from qgf_guide.types import Critic, Direction, Endpoint, Velocity


@rule(
    needs=("q",),
    ignores=("endpoint", "straight_through"),
    source="Zhou et al., 2026, arXiv 2606.11087, Eq. 19",
)
def _noisy(velocity: Velocity, q: Critic, endpoint: Endpoint = one_straight_step) -> Direction:
    """QFQL: the critic's gradient at the noisy action, where the critic was never trained."""
    del endpoint
    return lambda action, t: (velocity(action, t), jax.grad(q)(action))


@rule(
    needs=("noisy_q",),
    ignores=("endpoint", "scale", "straight_through"),
    source="Zhou et al., 2026, arXiv 2606.11087, Eq. 20",
)
def _noise_aware(velocity: Velocity, q: Any, endpoint: Endpoint = one_straight_step) -> Direction:
    """RobustQ: as `noisy`, for a critic q(action, t) that was trained on noisy actions."""
    del endpoint
    return lambda action, t: (velocity(action, t), jax.grad(q)(action, t))
