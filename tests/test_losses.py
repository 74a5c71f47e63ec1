"""Loss maths against numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np

from qgf_jax.core import losses


def test_expectile_weighs_targets_above_the_prediction():
    np.testing.assert_allclose(losses.expectile(jnp.array([2.0, -2.0]), 0.9), [3.6, 0.4], rtol=1e-6)


def test_expectile_has_its_minimum_at_the_expectile():
    """Of {0, 1} with level 0.9: 0.9 (1 - v) = 0.1 v, so v = 0.9."""
    v = jnp.linspace(0, 1, 101)
    cost = losses.expectile(0.0 - v, 0.9) + losses.expectile(1.0 - v, 0.9)
    assert abs(float(v[cost.argmin()]) - 0.9) < 1e-6


def test_flow_matching_compares_with_action_minus_noise_at_the_right_point():
    noise, action, t = jnp.array([1.0, 0.0]), jnp.array([0.5, 1.0]), jnp.float32(0.25)
    seen = []

    def velocity(a, time):
        seen.append((a, time))
        return jnp.array([1.0, -2.0])

    loss = losses.flow_matching(velocity, action, noise, t)
    np.testing.assert_allclose(loss, ((1.0 + 0.5) ** 2 + (-2.0 - 1.0) ** 2) / 2)
    np.testing.assert_allclose(seen[0][0], [0.875, 0.25])
    assert seen[0][1] == 0.25
