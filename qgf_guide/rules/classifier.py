"""Classifier guidance, with exp(inverse_temperature * Q) as the classifier.

On the path a_t = (1 - t) z + t a the velocity and the score of the noisy actions' density determine each
other, as E[z | a_t] = a_t - t v is minus (1 - t) times the score:

    score = (t v - a_t) / (1 - t),    v = ((1 - t) score + a_t) / t.

A density of score beta grad Q thus has the velocity ((1 - t) beta grad Q + a_t) / t, and that, times the
weight, is what the public code adds. Multiplying the densities would add scores: v plus (1 - t) / t *
beta grad Q, without a_t / t. See docs/guidance.md.
"""

from collections.abc import Callable
from typing import Annotated, Any

from qgf_guide.bounds import NonNegative
from qgf_guide.endpoints import one_straight_step
from qgf_guide.lazy import jax, jnp
from qgf_guide.parts import rule
from qgf_guide.types import Array, Critic, Direction, Endpoint, Velocity

_Beta = Annotated[NonNegative, "beta of the density exp(beta Q) that is the classifier, in 1 / Q"]


@rule(
    needs=("q",),
    ignores=("endpoint", "straight_through"),
    source="Li and Levine, 2026, arXiv 2601.14234, CGQL",
)
def _classifier(
    velocity: Velocity,
    q: Critic,
    endpoint: Endpoint = one_straight_step,
    *,
    inverse_temperature: _Beta = 10.0,
) -> Direction:
    """CGQL: the velocity of a density whose score is beta times Q's gradient at the noisy action."""
    del endpoint
    return _add_velocity_of(velocity, lambda a, t: inverse_temperature * jax.grad(q)(a))


@rule(
    needs=("noisy_q",),
    ignores=("endpoint", "scale", "straight_through"),
    source="Li and Levine, 2026, arXiv 2601.14234, CGQL-M and CGQL-L",
)
def _classifier_noise_aware(
    velocity: Velocity,
    q: Any,
    endpoint: Endpoint = one_straight_step,
    *,
    inverse_temperature: _Beta = 10.0,
) -> Direction:
    """As `classifier`, for a critic q(action, t) that was trained on noisy actions."""
    del endpoint
    return _add_velocity_of(velocity, lambda a, t: inverse_temperature * jax.grad(q)(a, t))


def _add_velocity_of(velocity: Velocity, score: Callable[[Array, Array], Array]) -> Direction:
    """The direction is the velocity of `score`; 0 at t = 0, where any score has the same density."""

    def direct(action: Array, t: Array) -> tuple[Array, Array]:
        started = t > 0
        after = jnp.where(started, t, 1.0)
        pull = ((1.0 - t) * score(action, t) + action) / after
        return velocity(action, t), jnp.where(started, pull, 0.0)

    return direct
