"""Adjoint matching against automatic differentiation, and its fixed point."""

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.core import adjoint

STEPS, WIDTH = 8, 3
MATRIX = 0.5 * np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)


def drift(x, t):
    return MATRIX @ x * (1.0 + t)


def q(x):
    return jnp.sin(x).sum()


def from_step(x, k):
    for i in range(k, STEPS):
        x = x + drift(x, i / STEPS) / STEPS
    return x


def test_lean_adjoint_is_the_gradient_through_a_linear_flow():
    path = [jnp.array([0.3, -0.5, 0.2])]
    for k in range(STEPS - 1):
        path.append(path[-1] + drift(path[-1], k / STEPS) / STEPS)
    end = from_step(path[0], 0)
    found = adjoint._lean_adjoint(drift, jnp.stack(path), -jax.grad(q)(end), num_steps=STEPS)
    for k in range(STEPS):
        expected = jax.grad(lambda a, k=k: -q(from_step(a, k)))(path[k])
        np.testing.assert_allclose(found[k], expected, rtol=1e-4)


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
