"""Loss maths against numbers worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_jax.core import losses
from qgf_jax.methods.policies.flow_loss import _sample_time


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


class UnderEachTransform(chex.TestCase):
    """The same numbers with and without jit, alone and under vmap."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_expectile(self):
        found = self.variant(lambda error: losses.expectile(error, 0.9))
        np.testing.assert_allclose(found(jnp.float32(2.0)), 3.6, rtol=1e-6)
        np.testing.assert_allclose(jax.vmap(found)(jnp.array([2.0, -2.0])), [3.6, 0.4], rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_flow_matching(self):
        """A field that stands still has the mean square of action - noise."""

        def loss(action, noise, t):
            return losses.flow_matching(lambda a, t: jnp.zeros(2), action, noise, t)

        action, noise = jnp.array([1.0, -1.0]), jnp.array([0.0, 2.0])
        found = self.variant(loss)
        np.testing.assert_allclose(found(action, noise, jnp.float32(0.3)), 5.0, rtol=1e-6)
        many = jax.vmap(found)(jnp.stack([action] * 3), jnp.stack([noise] * 3), jnp.ones(3))
        np.testing.assert_allclose(many, 5.0, rtol=1e-6)


@pytest.mark.parametrize(("grid", "expected"), [(0, None), (4, {0.0, 0.25, 0.5, 0.75, 1.0})])
def test_times_to_train_at(grid, expected):
    t = np.asarray(_sample_time(jax.random.key(0), (2000,), grid=grid))
    if expected is None:
        assert t.min() >= 0.0 and t.max() < 1.0 and abs(t.mean() - 0.5) < 0.03
    else:
        assert set(t.tolist()) == expected
        assert abs((t == 1.0).mean() - 0.2) < 0.04
