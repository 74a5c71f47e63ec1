"""Straight-line flows on actions. Everywhere, time runs from t = 0 (noise) to t = 1 (data)."""

import jax
import jax.numpy as jnp

from qgf_jax.types import Array, Velocity


def interpolate(noise: Array, action: Array, t: Array) -> tuple[Array, Array]:
    """The path's point at time t, and the path's velocity: both [D] (Lipman et al., 2023)."""
    return (1.0 - t) * noise + t * action, action - noise


def endpoint(action: Array, t: Array, velocity: Array) -> Array:
    """Where one straight step from `action` [D] at time t lands at t = 1, clipped to the box.

    Zhou et al., 2026, Eq. 7.
    """
    return jnp.clip(action + (1.0 - t) * velocity, -1.0, 1.0)


def integrate(velocity: Velocity, noise: Array, *, num_steps: int) -> Array:
    """Euler-integrates da/dt = velocity(a, t) from `noise` [D] at t = 0 to an action [D] at t = 1.

    The result is not clipped. One `lax.scan`: whatever `velocity` holds (a network, a critic's
    gradient) is one body for XLA to fuse, and compile time does not grow with `num_steps`.
    """

    def euler(action, t):
        return action + velocity(action, t) / num_steps, None

    # Dividing, not adding up steps: t = k / num_steps to the last bit, and fast time features see it.
    times = jnp.arange(num_steps, dtype=noise.dtype) / num_steps
    return jax.lax.scan(euler, noise, times)[0]


def sample_time(key: Array, shape: tuple[int, ...], *, grid: int) -> Array:
    """Times to train at: uniform on [0, 1) if `grid` is 0, else on {0, 1/grid, …, 1}.

    The public QGF code uses the grid of its integrator; at its last point, t = 1, the target is
    noise that nothing can predict and that no integrator asks for.
    """
    if grid:
        return jax.random.randint(key, shape, 0, grid + 1) / grid
    return jax.random.uniform(key, shape)
