"""The diffusion's schedule against its closed form, and its chain against a distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_jax.core.diffusion import NoiseSchedule, _clean

STEPS = 10


def test_products_have_their_closed_form():
    """prod alpha = exp(-low k / K - (high - low) k^2 / (2 K^2)), e^-5.05 at the end."""
    alpha, product = NoiseSchedule.of(STEPS)
    k = np.arange(STEPS + 1)
    np.testing.assert_allclose(
        product, np.exp(-0.1 * k / STEPS - 4.95 * k**2 / STEPS**2), rtol=1e-5
    )
    np.testing.assert_allclose(product[-1], np.exp(-5.05), rtol=1e-5)
    np.testing.assert_allclose(product[1:], product[:-1] * alpha[1:], rtol=1e-6)
    assert alpha[0] == product[0] == 1.0


def test_clean_undoes_mix():
    action, noise = np.array([0.3, -0.5], np.float32), np.array([1.0, -2.0], np.float32)
    schedule = NoiseSchedule.of(STEPS)
    for k in range(STEPS + 1):
        mixed, product = schedule.mix(action, noise, k)
        np.testing.assert_allclose(product, schedule.product[k])
        np.testing.assert_allclose(_clean(mixed, noise, product), action, atol=1e-5)


MEAN, STD = 0.3, 0.2


def exact(action, k):
    """The expected noise in `action` at step k, for data N(MEAN, STD ** 2)."""
    p = jnp.asarray(NoiseSchedule.of(100).product)[k]
    return jnp.sqrt(1 - p) * (action - jnp.sqrt(p) * MEAN) / (p * STD**2 + 1 - p)


def draws(posterior):
    keys = jax.random.split(jax.random.key(0), 2000)
    one = lambda key: NoiseSchedule.of(100).sample(exact, key, 2, posterior=posterior)
    return np.asarray(jax.jit(jax.vmap(one))(keys))


def test_chain_with_the_exact_noise_draws_from_the_data():
    """One and a half per cent is four standard errors of a mean of 4000."""
    found = draws(posterior=True)
    assert found.mean() == pytest.approx(MEAN, abs=0.015)
    assert found.std() == pytest.approx(STD, rel=0.15)


def test_public_chain_does_not():
    """It takes the clean action for the less noisy one, and loses the data's spread on the way."""
    assert abs(draws(posterior=False).std() - STD) > 0.05


def towards(*cleans):
    """The noise that makes the clean action of step k the k-th of these, or what a function says."""
    product = jnp.asarray(NoiseSchedule.of(len(cleans)).product)

    def noise(action, k):
        wanted = jnp.stack([jnp.broadcast_to(c(action) if callable(c) else c, 2) for c in cleans])
        return (action - jnp.sqrt(product[k]) * wanted[k - 1]) / jnp.sqrt(1 - product[k])

    return noise


def test_last_step_adds_no_noise():
    """From step 1 the posterior's mean is the clean action itself."""
    for key in jax.random.split(jax.random.key(0), 3):
        found = NoiseSchedule.of(3).sample(towards(0.3, -0.2, 0.9), key, 2)
        np.testing.assert_allclose(found, 0.3, atol=1e-5)


def test_clean_action_is_clipped_to_the_box_on_the_way():
    """The last step shows a tenth of the action that came before."""

    def end(clean):
        noise = towards(lambda action: 0.1 * action, clean)
        return np.asarray(NoiseSchedule.of(2).sample(noise, jax.random.key(1), 2))

    np.testing.assert_allclose(end(3.0), end(1.0), atol=1e-6)
    assert np.abs(end(1.0) - end(0.5)).min() > 1e-3
