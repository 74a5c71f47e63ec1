"""Adjoints of flows: gradients at a path's end that are pulled back along it, and adjoint matching."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qgf_jax.types import Array, Velocity


def flow_adjoint(
    velocity: Velocity,
    gradient: Callable[[Array], Array],
    noise: Array,
    *,
    num_steps: int,
) -> tuple[Array, Array, Array]:
    """The times [T], the points [T, D] and the adjoint [T, D] of the flow's Euler path from `noise`.

    T is `num_steps`, and times are 0, 1 / T, …, 1 - 1 / T. `gradient`, (end [D]) -> [D], is that of a
    function of the end. The adjoint at a point is the function's gradient with respect to the point,
    through the remaining steps: lambda_t = (I + J / T)^T lambda_(t + 1/T), with J = d velocity / d point
    and lambda_1 the gradient.
    """
    times = jnp.arange(num_steps) / num_steps

    def step(x: Array, t: Array) -> tuple[Array, Array]:
        return x + velocity(x, t) / num_steps, x

    end, path = jax.lax.scan(step, noise, times)
    return times, path, _lean_adjoint(velocity, path, gradient(end), num_steps=num_steps)


def matching_loss(
    learned: Velocity,
    frozen: Velocity,
    base: Velocity,
    gradient: Callable[[Array], Array],
    key: Array,
    width: int,
    *,
    num_steps: int,
    ahead: bool = False,
) -> Array:
    """The loss [] whose minimum tilts the flow `base` towards ends of low cost.

    The sum over a path of (2 / sigma (learned - base) + sigma adjoint) ** 2 (Li and Levine, 2026). The
    path is drawn with `key`. `learned` is what the loss moves, and `frozen` the same field without
    derivatives, whose path it is. `gradient`, (end [D]) -> [D], is that of the end's cost; D is `width`.
    With `ahead` the base drift that the adjoint is pulled back by is taken one step later.
    """
    h = 1.0 / num_steps
    times = jnp.arange(num_steps) / num_steps
    scale = _memoryless_scale(times, h)[:, None]
    path, end = _memoryless_path(frozen, base, key, width, num_steps=num_steps)

    def drift(a_t: Array, t: Array) -> Array:
        return 2.0 * base(a_t, t + h if ahead else t) - a_t / (t + h)

    pulled = _lean_adjoint(drift, path, gradient(end), num_steps=num_steps)
    tilt = jax.vmap(learned)(path, times) - jax.vmap(base)(path, times)
    return jnp.sum((2.0 / scale * tilt + scale * pulled) ** 2)


def _memoryless_scale(t: Array, h: float) -> Array:
    """sigma = sqrt(2 (1 - t + h) / (t + h)): the noise that makes a flow's ends forget its start.

    Domingo-Enrich et al., 2025; `h`, the step, keeps it finite at t = 0.
    """
    return jnp.sqrt(2.0 * (1.0 - t + h) / (t + h))


def _memoryless_path(
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
        return x + h * drift + jnp.sqrt(h) * _memoryless_scale(t, h) * noise, x

    times = jnp.arange(num_steps - 1) / num_steps
    noise = jax.random.normal(noise_key, (num_steps - 1, width))
    last, path = jax.lax.scan(step, jax.random.normal(start_key, (width,)), (times, noise))
    end = last + h * slow(last, jnp.float32((num_steps - 1) / num_steps))
    return jnp.concatenate([path, last[None]]), end


def _lean_adjoint(
    drift: Callable[[Array, Array], Array], path: Array, final: Array, *, num_steps: int
) -> Array:
    """Pulls `final` [D] back along `path` [T, D] by the steps x + drift(x, t) / T: [T, D].

    Domingo-Enrich et al., 2025: for a path of the tilted flow only the base drift is differentiated,
    which leaves the terms out that vanish at the optimum. For the drift's own path nothing is left out.
    """

    def step(adjoint: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, t = inputs
        _, pull = jax.vjp(lambda x: drift(x, t), x)
        adjoint = adjoint + pull(adjoint)[0] / num_steps
        return adjoint, adjoint

    times = jnp.arange(num_steps) / num_steps
    return jax.lax.scan(step, final, (path, times), reverse=True)[1]
