"""Sums and layer norms: what an accelerator gets, run on a CPU, is what a CPU gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_jax.core import reductions as sums

KEYS = jax.random.split(jax.random.key(0), 4)


def test_both_forms_of_a_sum_agree():
    x = jax.random.normal(KEYS[0], (3, 7))
    np.testing.assert_allclose(sums.fast_sum(x), x.sum(axis=-1), rtol=1e-6)


def derivatives(norm):
    """Value, pull back, push forward and the pull back of a slope's length, of a batch."""
    x = 3.0 + jax.random.normal(KEYS[0], (5, 16))
    scale, bias = 1.0 + 0.1 * jax.random.normal(KEYS[1], (2, 16))
    weights = jax.random.normal(KEYS[2], (16,))

    def total(x, scale, bias):
        batch = jax.vmap(norm, in_axes=(0, None, None))(x, scale, bias)
        return (jnp.sin(batch) @ weights).sum()

    def slope(x):
        return jnp.square(jax.grad(total)(x, scale, bias)).sum()

    forward = jax.jvp(lambda x: total(x, scale, bias), (x,), (jnp.cos(x),))[1]
    pulled = jax.grad(total, argnums=(0, 1, 2))(x, scale, bias)
    return total(x, scale, bias), pulled, forward, jax.grad(slope)(x)


def test_all_forms_of_a_layer_norm_have_the_same_derivatives():
    forms = (sums._by_products, sums._acting, sums._in_training)
    wanted, *others = (jax.jit(derivatives, static_argnums=0)(form) for form in forms)
    for found in others:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, wanted
        )


def test_training_alone_gets_the_form_for_gradients_of_all():
    def program():
        slope = jax.jit(jax.grad(lambda *args: sums.layer_norm(*args).sum()))
        shapes = (jnp.ones(8), jnp.ones(8), jnp.ones(8))
        return slope.trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()

    acting = program()
    with sums.for_training():
        training = program()
    assert acting != training
    assert program() == acting


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_two_passes_keep_their_digits_far_from_zero(shift):
    """One pass takes the square of the mean off the mean of squares, which far out are nearly equal."""
    x = np.linspace(-1.0, 1.0, 32) + shift
    wanted = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
    found = sums._in_training(jnp.asarray(x, jnp.float32), jnp.ones(32), jnp.zeros(32))
    np.testing.assert_allclose(found, wanted, atol=1e-5 if shift == 0.0 else 1e-3)
