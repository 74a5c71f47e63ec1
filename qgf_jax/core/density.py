"""Densities of what a flow makes of noise, by the change of variables along its Euler steps.

A step is x -> x + velocity(x, t) / n, and log |det| of its Jacobian I + J / n is exact. So the density
is that of the actions that `flow.integrate` gives, before any clip, not of an ODE near them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from qgf_jax.types import Array, Velocity

_ITERATIONS = 20
_STRIDES = (1.0, 0.5, 0.25, 0.0625)
_TOLERANCE = 1e-3


class Path(NamedTuple):
    """A way of the flow, from noise to action."""

    points: Array
    """[n, D], before each step; the first is the noise."""
    action: Array
    """[D], unclipped."""
    log_density: Array
    """[], of the action; -inf where no noise was found that leads to it."""

    @classmethod
    def forward(cls, velocity: Velocity, noise: Array, *, num_steps: int) -> "Path":
        """Where `noise` [D] goes, with log p(action) = log N(noise) - sum log |det(I + J_k / n)|."""

        def step(point: Array, t: Array) -> tuple[Array, tuple[Array, Array]]:
            end, jacobian = _with_jacobian(_euler(velocity, t, num_steps), point)
            return end, (point, _log_det(jacobian))

        action, (points, log_dets) = jax.lax.scan(step, noise, _times(num_steps, noise))
        return cls(points, action, _normal(noise) - log_dets.sum())

    @classmethod
    def backward(cls, velocity: Velocity, action: Array, near: Array, *, num_steps: int) -> "Path":
        """The way of the flow that ends in `action` [D], each step inverted by Newton's method.

        `near` [n, D] is a way to begin the search at: that of a nearby action. Where a step has no
        inverse within reach the density is -inf, and the points are those of `near`.
        """

        def step(carry: tuple[Array, Array], x: tuple[Array, Array]) -> tuple[tuple, tuple]:
            (end, found), (t, start) = carry, x
            euler = _euler(velocity, t, num_steps)
            point = _solve(euler, end, start)
            reached, jacobian = _with_jacobian(euler, point)
            found &= _distance(reached, end) <= _tolerance(end)
            return (point, found), (point, _log_det(jacobian))

        # `&` with what may vary over a batch: the carry's type must not change.
        found = jnp.isfinite(action).all()
        ways = (_times(num_steps, action), near)
        (noise, found), (points, log_dets) = jax.lax.scan(step, (action, found), ways, reverse=True)
        density = _normal(noise) - log_dets.sum()
        found &= jnp.isfinite(density)
        return cls(jnp.where(found, points, near), action, jnp.where(found, density, -jnp.inf))


def _normal(noise: Array) -> Array:
    """log N(noise; 0, I) [] of `noise` [D]."""
    return -0.5 * (noise @ noise + noise.size * jnp.log(2.0 * jnp.pi))


def _euler(velocity: Velocity, t: Array, num_steps: int) -> Callable[[Array], Array]:
    return lambda x: x + velocity(x, t) / num_steps


def _with_jacobian(f: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """f(x) [D] and its Jacobian [D, D], the network traced once."""
    jacobian, value = jax.jacfwd(lambda x: (f(x),) * 2, has_aux=True)(x)
    return value, jacobian


def _times(num_steps: int, like: Array) -> Array:
    return jnp.arange(num_steps, dtype=like.dtype) / num_steps


def _log_det(matrix: Array) -> Array:
    return jnp.linalg.slogdet(matrix)[1]


def _distance(a: Array, b: Array) -> Array:
    return jnp.abs(a - b).max()


def _solve(f: Callable[[Array], Array], y: Array, x: Array) -> Array:
    """x with f(x) = y, all [D], by Newton's method from `x`, each stride the best of several."""

    def error(x: Array) -> Array:
        gap = _distance(f(x), y)
        return jnp.where(jnp.isnan(gap), jnp.inf, gap)

    def goes_on(state: tuple[Array, Array, Array]) -> Array:
        count, _, left = state
        return (count < _ITERATIONS) & (left > 1e-2 * _tolerance(y))

    def newton(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, x, _ = state
        reached, jacobian = _with_jacobian(f, x)
        full = jnp.linalg.solve(jacobian, reached - y)
        tries = jnp.stack([x, *(x - stride * full for stride in _STRIDES)])
        errors = jax.vmap(error)(tries)
        best = jnp.argmin(errors)
        # Where no stride helps, none will the next time.
        return jnp.where(best > 0, count + 1, _ITERATIONS), tries[best], errors[best]

    return jax.lax.while_loop(goes_on, newton, (jnp.int32(0), x, error(x)))[1]


def _tolerance(y: Array) -> Array:
    return _TOLERANCE * (1.0 + jnp.abs(y).max())
