"""Straight-line flows on actions. Everywhere, time runs from t = 0 (noise) to t = 1 (data)."""

import functools
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from qgf_jax.types import Array, Endpoint, Velocity


def interpolate(noise: Array, action: Array, t: Array) -> tuple[Array, Array]:
    """The path's point at time t, and the path's velocity: both [D] (Lipman et al., 2023)."""
    return (1.0 - t) * noise + t * action, action - noise


def endpoint(action: Array, t: Array, velocity: Array, *, clip: bool = True) -> Array:
    """Where one straight step from `action` [D] at time t lands at t = 1, clipped to the box.

    Zhou et al., 2026, Eq. 7.
    """
    end = action + (1.0 - t) * velocity
    return jnp.clip(end, -1.0, 1.0) if clip else end


def rest(velocity: Velocity, *, num_steps: int) -> Endpoint:
    """The endpoint where the rest of the flow ends, step by step, clipped to the box.

    How many steps are left depends on t, so t has to be a number when the program is traced:
    integrate with `unroll=True`. Raises `TypeError` otherwise.
    """

    def end(action: Array, t: Array, first: Array, *, clip: bool = True) -> Array:
        if isinstance(t, jax.core.Tracer):
            raise TypeError("flow.rest needs a concrete t: use integrate(…, unroll=True)")
        done = round(float(t) * num_steps) + 1
        action = action + first / num_steps

        # Differentiated, a scan stacks up all that a step keeps. Keeping the matrix products alone and
        # computing activations again halves the time on a CPU: 3.1 instead of 6.2 times QGF.
        @functools.partial(
            jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False
        )
        def euler(action: Array, t: Array) -> tuple[Array, None]:
            return action + velocity(action, t) / num_steps, None

        times = jnp.arange(done, num_steps, dtype=action.dtype) / num_steps
        action = jax.lax.scan(euler, action, times)[0]
        return jnp.clip(action, -1.0, 1.0) if clip else action

    return end


def integrate(velocity: Velocity, noise: Array, *, num_steps: int, unroll: bool = False) -> Array:
    """Euler-integrates da/dt = velocity(a, t) from `noise` [D] at t = 0 to an action [D] at t = 1.

    The result is not clipped. One `lax.scan`: whatever `velocity` holds (a network, a critic's
    gradient) is one body for XLA to fuse, and compile time does not grow with `num_steps`.
    `unroll` writes the steps out one by one, each with a t that is known at compile time.
    """
    if unroll:
        action = noise
        for k in range(num_steps):
            t: Any = np.float32(k) / np.float32(num_steps)
            action = action + velocity(action, t) / num_steps
        return action

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
