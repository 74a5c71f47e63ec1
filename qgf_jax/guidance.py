"""Guidance: turns a velocity field into one whose flow ends where Q is high.

Everything here sees one action, with observation and parameters already bound into `velocity` and
`q`; batch it with `jax.vmap`, so that the gradient of one sample cannot depend on the others.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qgf_jax.errors import unknown
from qgf_jax.flow import endpoint
from qgf_jax.types import Array, Critic, Slope, Velocity

Rule = Callable[[Velocity, Critic], Slope]


def unguided(velocity: Velocity, q: Critic) -> Slope:
    """The reference policy itself. The critic is never called, so it costs nothing."""
    del q

    def slope(action: Array, t: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        return v, jnp.zeros_like(v)

    return slope


def noisy(velocity: Velocity, q: Critic) -> Slope:
    """QFQL: the critic's slope at the half-made action, where the critic was never trained.

    Zhou et al., 2026, Eq. 19.
    """
    return lambda action, t: (velocity(action, t), jax.grad(q)(action))


def one_step(velocity: Velocity, q: Critic) -> Slope:
    """QGF: the critic's slope at the one-step endpoint, taking d endpoint / d action as I.

    Zhou et al., 2026, Eq. 9. The clip of the endpoint is not differentiated either, so a
    coordinate that has run into the box still gets its slope.
    """

    def slope(action: Array, t: Array) -> tuple[Array, Array]:
        v = velocity(action, t)
        return v, jax.grad(q)(endpoint(action, t, v))

    return slope


def one_step_jacobian(velocity: Velocity, q: Critic) -> Slope:
    """QGF-Jacobian: as `one_step`, but differentiated through the endpoint, its clip included.

    Zhou et al., 2026, Eq. 8: one vector-Jacobian product, never the D x D matrix, and one pass
    forward, whose velocity is the one that is integrated.
    """

    def slope(action: Array, t: Array) -> tuple[Array, Array]:
        def q_at_endpoint(action: Array) -> tuple[Array, Array]:
            v = velocity(action, t)
            return q(endpoint(action, t, v)), v

        gradient, v = jax.grad(q_at_endpoint, has_aux=True)(action)
        return v, gradient

    return slope


RULES: dict[str, Rule] = {
    "unguided": unguided,
    "noisy": noisy,
    "one_step": one_step,
    "one_step_jacobian": one_step_jacobian,
}


def guide(
    velocity: Velocity, q: Critic, *, weight: Array | float, rule: str = "one_step"
) -> Velocity:
    """The guided velocity, `velocity + weight * slope`, as a function of (action [D], t []).

    `velocity` and `q` are any JAX callables, for one action; `weight` may be traced, so a sweep
    over weights is one compilation and one `vmap`. It multiplies the raw gradient and so carries
    the units of 1 / Q.

        field = guide(velocity, q, weight=3.0)
        act = lambda noise: jnp.clip(integrate(field, noise, num_steps=10), -1.0, 1.0)
        actions = jax.vmap(act)(jax.random.normal(key, (64, action_dim)))

    Raises `UserError` for a rule that is not in `RULES`.
    """
    if rule not in RULES:
        raise unknown("guidance rule", rule, RULES)
    slope = RULES[rule](velocity, q)

    def guided(action: Array, t: Array) -> Array:
        v, direction = slope(action, t)
        return v + weight * direction

    return guided
