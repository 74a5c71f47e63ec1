"""Adjoint matching on flows: the paths, and what is pulled back along them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qgf_jax.types import Array, Velocity


def memoryless_scale(t: Array, h: float) -> Array:
    """sigma = sqrt(2 (1 - t + h) / (t + h)): the noise that makes a flow's ends forget its start.

    Domingo-Enrich et al., 2025; `h`, the step, keeps it finite at t = 0.
    """
    return jnp.sqrt(2.0 * (1.0 - t + h) / (t + h))


def memoryless_path(
    fast: Velocity, slow: Velocity, key: Array, width: int, *, num_steps: int
) -> tuple[Array, Array]:
    """The fast flow as a memoryless SDE: its points [T, D] at t = k / T, and its end [D].

    The last step is the base flow's own, without noise.
    """
    h = 1.0 / num_steps
    start_key, noise_key = jax.random.split(key)

    def step(x: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        t, noise = inputs
        drift = 2.0 * fast(x, t) - x / (t + h)
        return x + h * drift + jnp.sqrt(h) * memoryless_scale(t, h) * noise, x

    times = jnp.arange(num_steps - 1) / num_steps
    noise = jax.random.normal(noise_key, (num_steps - 1, width))
    last, path = jax.lax.scan(step, jax.random.normal(start_key, (width,)), (times, noise))
    end = last + h * slow(last, jnp.float32((num_steps - 1) / num_steps))
    return jnp.concatenate([path, last[None]]), end


def lean_adjoint(
    drift: Callable[[Array, Array], Array], path: Array, final: Array, *, num_steps: int
) -> Array:
    """Pulls `final` [D] back along `path` [T, D] by the steps x + drift(x, t) / T: [T, D].

    Domingo-Enrich et al., 2025: only the base drift is differentiated, which leaves the terms out
    that vanish at the optimum.
    """

    def step(adjoint: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, t = inputs
        _, pull = jax.vjp(lambda x: drift(x, t), x)
        adjoint = adjoint + pull(adjoint)[0] / num_steps
        return adjoint, adjoint

    times = jnp.arange(num_steps) / num_steps
    return jax.lax.scan(step, final, (path, times), reverse=True)[1]
