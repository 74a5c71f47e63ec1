"""Adjoints against automatic differentiation, and adjoint matching."""

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.core import adjoint

STEPS, WIDTH = 8, 3
MATRIX = 0.5 * np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)


def drift(x, t):
    return jnp.sin(MATRIX @ x * (1.0 + t)) - 0.4 * x


def q(x):
    return jnp.sin(x).sum()


def from_step(x, k):
    for i in range(k, STEPS):
        x = x + drift(x, i / STEPS) / STEPS
    return x


def test_flow_adjoint_is_the_gradient_through_the_rest_of_the_flow_at_every_point():
    start = jnp.array([0.3, -0.5, 0.2])
    times, path, found = adjoint.flow_adjoint(drift, jax.grad(q), start, num_steps=STEPS)
    assert times.shape == (STEPS,) and path.shape == found.shape == (STEPS, WIDTH)
    x = start
    for k in range(STEPS):
        np.testing.assert_allclose(times[k], k / STEPS, rtol=1e-6)
        np.testing.assert_allclose(path[k], x, atol=1e-6)
        expected = jax.grad(lambda a, k=k: q(from_step(a, k)))(x)
        np.testing.assert_allclose(found[k], expected, atol=1e-5)
        x = x + drift(x, k / STEPS) / STEPS
    assert np.abs(found[0] - found[-1]).max() > 0.1  # a slip of one step shows


def test_memoryless_path_forgets_its_start_and_ends_where_the_flow_does():
    """For the flow of N(0, 1) noise to N(0, s^2) data the ends have the data's spread."""
    s, steps = 0.5, 200

    def velocity(x, t):
        return x * (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2)

    keys = jax.random.split(jax.random.key(0), 4000)
    run = lambda key: adjoint._memoryless_path(velocity, velocity, key, 1, num_steps=steps)
    path, end = jax.jit(jax.vmap(run))(keys)
    assert path.shape == (4000, steps, 1)
    np.testing.assert_allclose(np.std(end), s, rtol=0.05)
    assert abs(np.corrcoef(path[:, 0, 0], end[:, 0])[0, 1]) < 0.1


def test_scale_of_the_noise_at_its_ends():
    h = 0.1
    np.testing.assert_allclose(
        adjoint._memoryless_scale(jnp.float32(0), h), np.sqrt(2 * 1.1 / 0.1), rtol=1e-6
    )
    np.testing.assert_allclose(
        adjoint._memoryless_scale(jnp.float32(0.9), h), np.sqrt(0.4), rtol=1e-5
    )
