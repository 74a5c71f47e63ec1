"""Sizes, layer norms and time features of the networks."""

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_jax.core import networks
from qgf_jax.types import Spec

CUBE_TRIPLE = Spec(obs_dim=46, action_dim=5, chunk=5)


def _count(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return sum(x.size for x in jax.tree.leaves(shapes)), shapes["params"]


def test_parameter_counts_of_the_paper():
    """cube-triple, 4 x 1024: products of the widths, biases, and two numbers a unit of layer norm."""
    wide = {"policy_hidden": (1024,) * 4, "critic_hidden": (1024,) * 4}
    nets = networks.build(CUBE_TRIPLE, **wide)
    obs, action, t = jnp.zeros(46), jnp.zeros(25), jnp.zeros(())
    policy, tree = _count(nets.policy, obs, action, t)
    assert policy == 3_260_416 + 4 * 1024 + 25 + 3 * 2 * 1024
    assert len([k for k in tree["MLP_0"] if k.startswith("LayerNorm")]) == 3  # none on the fourth
    critic, tree = _count(nets.critic, obs, action)
    assert critic == 3_219_456 + 4 * 1024 + 1 + 4 * 2 * 1024
    assert len([k for k in tree["MLP_0"] if k.startswith("LayerNorm")]) == 4
    value, _ = _count(nets.value, obs)
    assert value == 3_193_856 + 4 * 1024 + 1 + 4 * 2 * 1024


def test_time_features():
    np.testing.assert_allclose(networks.sinusoidal(jnp.float32(0.0)), [1.0] * 8 + [0.0] * 8)
    t = 0.37
    angle = 10000 * t * 10000.0 ** (-np.arange(8) / 8)
    expected = np.concatenate([np.cos(angle), np.sin(angle)])
    features = networks.sinusoidal(jnp.float32(t))
    np.testing.assert_allclose(
        features[4:8], expected[4:8], atol=2e-5
    )  # the slow ones, to rounding
    np.testing.assert_allclose(features, expected, atol=2e-3)


def test_gelu_is_the_tanh_approximation():
    x = 1.3
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(networks.ACTIVATIONS["gelu"](jnp.float32(x)), expected, rtol=1e-6)


def test_layer_norm_is_that_of_flax():
    """In value and gradient, after the scale and bias have moved; weights of one fit the other."""
    x = 3.0 * jax.random.normal(jax.random.key(0), (5, 24)) + 2.0
    shape = jax.eval_shape(nn.LayerNorm().init, jax.random.key(0), x[0])
    params = jax.tree.map(lambda s: 1.0 + 0.1 * jnp.arange(24.0).reshape(s.shape), shape)

    def slopes(module):
        def loss(params, x):
            return jnp.sin(jax.vmap(lambda one: module.apply(params, one))(x)).sum()

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)

    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5),
        slopes(networks.LayerNorm()),
        slopes(nn.LayerNorm()),
    )


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_an_accelerator_gets_plain_sums(platform):
    """It fuses a sum with what is around it, and not a product."""
    module = networks.LayerNorm()
    params = module.init(jax.random.key(0), jnp.ones(8))
    slope = jax.jit(jax.grad(lambda x: jnp.sin(module.apply(params, x)).sum()))
    program = jax.export.export(slope, platforms=[platform])(jnp.ones(8)).mlir_module()
    assert ("dot_general" in program) == (platform == "cpu")


def test_ensemble_members_are_independent_and_apply_alone_or_in_batches():
    nets = networks.build(Spec(3, 2, 1), critic_hidden=(8,), ensemble=3)
    obs, action = jnp.ones((4, 3)), jnp.ones((4, 2))
    members = nets.init_ensemble(jax.random.key(0), obs[0], action[0])
    batch = jax.vmap(lambda o, a: nets.apply_ensemble(members, o, a), out_axes=1)(obs, action)
    assert batch.shape == (3, 4)
    assert len(set(np.asarray(batch[:, 0]).tolist())) == 3
    np.testing.assert_allclose(
        nets.apply_ensemble(members, obs[0], action[0]), batch[:, 0], rtol=1e-5
    )
    np.testing.assert_allclose(nets.aggregate(batch), np.min(batch, axis=0))


def test_observations_are_standardized_by_the_spec():
    plain, scaled = Spec(2, 1, 1), Spec(2, 1, 1, (1.0, 2.0), (2.0, 4.0))
    value = networks.build(plain, critic_hidden=(4,)).value
    params = value.init(jax.random.key(0), jnp.zeros(2))
    same = networks.build(scaled, critic_hidden=(4,)).value
    np.testing.assert_allclose(
        same.apply(params, jnp.array([3.0, 10.0])), value.apply(params, jnp.array([1.0, 2.0]))
    )


def test_log_standard_deviation_lies_between_minus_five_and_two():
    gaussian = networks.build(Spec(2, 1, 1), policy_hidden=(4,)).gaussian
    params = gaussian.init(jax.random.key(0), jnp.zeros(2))
    for bias, expected in ((-100.0, -5.0), (100.0, 2.0), (-1.5, -1.5)):
        moved = jax.tree.map(
            lambda x, b=bias: jnp.full_like(x, b) if x.ndim == 1 else 0 * x, params
        )
        np.testing.assert_allclose(gaussian.apply(moved, jnp.zeros(2))[1], expected)
