"""Sizes, layer norms and time features of the networks."""

import json

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_jax.core import encoders, layers, networks
from qgf_jax.errors import UserError
from qgf_jax.types import Obs, Spec

CUBE_TRIPLE = Spec(state=(46,), action=5, chunk=5)


def _count(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return sum(x.size for x in jax.tree.leaves(shapes)), shapes["params"]


def test_parameter_counts_of_the_paper():
    """cube-triple, 4 x 1024: products of the widths, biases, and two numbers a unit of layer norm."""
    wide = {"policy_hidden": (1024,) * 4, "critic_hidden": (1024,) * 4}
    nets = networks.Networks.of(CUBE_TRIPLE, **wide)
    obs, action, t = CUBE_TRIPLE.example(), jnp.zeros(25), jnp.zeros(())
    policy, tree = _count(nets.policy, obs, action, t)
    assert policy == 3_260_416 + 4 * 1024 + 25 + 3 * 2 * 1024
    assert len([k for k in tree["MLP_0"] if k.startswith("LayerNorm")]) == 3  # none on the fourth
    critic, tree = _count(nets.critic, obs, action)
    assert critic == 3_219_456 + 4 * 1024 + 1 + 4 * 2 * 1024
    assert len([k for k in tree["MLP_0"] if k.startswith("LayerNorm")]) == 4
    value, _ = _count(nets.value, obs)
    assert value == 3_193_856 + 4 * 1024 + 1 + 4 * 2 * 1024


def test_time_features():
    np.testing.assert_allclose(layers.sinusoidal(jnp.float32(0.0)), [1.0] * 8 + [0.0] * 8)
    t = 0.37
    angle = 10000 * t * 10000.0 ** (-np.arange(8) / 8)
    expected = np.concatenate([np.cos(angle), np.sin(angle)])
    features = layers.sinusoidal(jnp.float32(t))
    np.testing.assert_allclose(
        features[4:8], expected[4:8], atol=2e-5
    )  # the slow ones, to rounding
    np.testing.assert_allclose(features, expected, atol=2e-3)


def test_gelu_is_the_tanh_approximation():
    x = 1.3
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(layers.ACTIVATIONS["gelu"](jnp.float32(x)), expected, rtol=1e-6)


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
        slopes(layers.LayerNorm()),
        slopes(nn.LayerNorm()),
    )


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_an_accelerator_gets_plain_sums(platform):
    """It fuses a sum with what is around it, and not a product."""
    module = layers.LayerNorm()
    params = module.init(jax.random.key(0), jnp.ones(8))
    slope = jax.jit(jax.grad(lambda x: jnp.sin(module.apply(params, x)).sum()))
    program = jax.export.export(slope, platforms=[platform])(jnp.ones(8)).mlir_module()
    assert ("dot_general" in program) == (platform == "cpu")


def test_ensemble_members_are_independent_and_apply_alone_or_in_batches():
    nets = networks.Networks.of(Spec((3,), 2, 1), critic_hidden=(8,), ensemble=3)
    obs, action = Obs(jnp.ones((4, 3))), jnp.ones((4, 2))
    first = Obs(obs.state[0])
    members = nets.init_ensemble(jax.random.key(0), first, action[0])
    batch = jax.vmap(lambda o, a: nets.apply_ensemble(members, o, a), out_axes=1)(obs, action)
    assert batch.shape == (3, 4)
    assert len(set(np.asarray(batch[:, 0]).tolist())) == 3
    np.testing.assert_allclose(
        nets.apply_ensemble(members, first, action[0]), batch[:, 0], rtol=1e-5
    )
    np.testing.assert_allclose(nets.aggregate(batch), np.min(batch, axis=0))


def test_observations_are_standardized_part_by_part():
    plain = Spec((2,), 1, 1, goal=(1,))
    scaled = plain.scaled((1.0, 2.0, 5.0), (2.0, 4.0, 0.5))
    assert (scaled.goal_mean, scaled.goal_std) == ((5.0,), (0.5,))
    value = networks.Networks.of(plain, critic_hidden=(4,)).value
    params = value.init(jax.random.key(0), plain.example())
    same = networks.Networks.of(scaled, critic_hidden=(4,)).value
    raw, seen = (
        Obs(jnp.array([3.0, 10.0]), jnp.array([6.0])),
        Obs(jnp.arange(1.0, 3.0), 2 * jnp.ones(1)),
    )
    np.testing.assert_allclose(same.apply(params, raw), value.apply(params, seen))


def test_a_policy_without_goals_does_not_see_one():
    spec = Spec((2,), 1, 1, goal=(1,), state_mean=(1.0, 1.0), state_std=(1.0, 1.0),
                goal_mean=(1.0,), goal_std=(1.0,))  # fmt: skip
    for goal, sees in ((True, True), (False, False)):
        policy = networks.Networks.of(spec, policy_hidden=(4,), policy_goal=goal).policy
        action, t = jnp.zeros(1), jnp.zeros(())
        params = policy.init(jax.random.key(0), spec.example(), action, t)
        near, far = (
            policy.apply(params, Obs(jnp.ones(2), jnp.full(1, x)), action, t) for x in (0.0, 9.0)
        )
        assert (near.tolist() != far.tolist()) == sees


class Pixels(nn.Module):
    """An encoder of images [H, W, C], as a file of one would have it."""

    @nn.compact
    def __call__(self, image):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(image))
        return nn.relu(nn.Dense(6)(jnp.ravel(x)))


def test_an_encoder_of_another_shape_is_one_module_in_a_table(monkeypatch):
    """Every network then takes images: each has an encoder of its own, goals one beside it."""
    spec = Spec((8, 8, 3), 2, 1, goal=(8, 8, 3))
    nets = networks.Networks.of(spec, policy_hidden=(5,), critic_hidden=(5,), goal_code=3)
    obs = spec.observation(jnp.linspace(0.0, 1.0, 2 * 8 * 8 * 3))
    with pytest.raises(UserError, match=r"no encoder for a state of shape \[8, 8, 3\]"):
        nets.value.init(jax.random.key(0), obs)
    monkeypatch.setitem(encoders.ENCODERS, 3, Pixels)
    action, t = jnp.zeros(2), jnp.zeros(())
    for module, inputs, last in (
        (nets.policy, (obs, action, t), 2),
        (nets.critic, (obs, action), None),
        (nets.gaussian, (obs,), 2),
    ):
        params = module.init(jax.random.key(0), *inputs)
        assert {"state_encoder", "goal_encoder"} <= params["params"].keys()
        out = jax.tree.leaves(module.apply(params, *inputs))[0]
        assert out.shape == (() if last is None else (last,))
        image = Obs(obs.state.at[3, 4, 1].add(5.0), obs.goal)
        moved = jax.tree.leaves(module.apply(params, image, *inputs[1:]))[0]
        assert not np.allclose(out, moved)
    value = nets.goal_value.init(jax.random.key(0), obs)
    assert nets.goal_value.apply(value, obs).shape == (2,)


def test_observations_are_taken_apart_where_the_goal_begins():
    spec = Spec((2, 3), 1, 1, goal=(2,))
    rows = np.arange(16.0).reshape(2, 8)
    obs = spec.observation(rows)
    np.testing.assert_array_equal(obs.state, rows[:, :6].reshape(2, 2, 3))
    np.testing.assert_array_equal(obs.goal, rows[:, 6:])
    assert spec.observation(rows[0]).goal.tolist() == [6, 7] and spec.width == 8
    assert Spec((8,), 1, 1).observation(rows).goal is None
    with pytest.raises(ValueError, match="8 numbers wide, not 7"):
        spec.observation(rows[:, :7])


@pytest.mark.parametrize("goal", [(), (2,)])
def test_records_of_earlier_versions_are_read(goal):
    """These had one width and one scale for state and goal; a record of today comes back as it is."""
    numbers = [1.0, 2.0, 3.0, *(4.0 for _ in goal), *(5.0 for _ in goal)]
    old = {"obs_dim": 3 + sum(goal), "action_dim": 2, "chunk": 4, "backup": 9, "goal_dim": sum(goal),
           "obs_mean": numbers, "obs_std": [10 * x for x in numbers]}  # fmt: skip
    spec = Spec.of(old)
    wanted = Spec((3,), 2, 4, goal or None, 9, (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    if goal:
        wanted = wanted._replace(goal_mean=(4.0, 5.0), goal_std=(40.0, 50.0))
    assert spec == wanted and hash(spec) == hash(wanted)
    assert Spec.of(json.loads(json.dumps(spec._asdict()))) == spec
    assert Spec.of({"obs_dim": 3, "action_dim": 2, "chunk": 4}) == Spec((3,), 2, 4)
    with pytest.raises(KeyError, match="chunk"):
        Spec.of({"state": [3], "action": 2})
    for wrong in ({"state": 3}, {"state": [3.5]}, {"state_mean": [1.0]}, {"chunk": None}):
        with pytest.raises((ValueError, TypeError)):
            Spec.of(spec._asdict() | wrong)


def test_a_new_learner_makes_networks_of_its_own():
    nets = networks.Networks.of(Spec((3,), 2, 2), policy_hidden=(4,), critic_hidden=(4,))
    obs, action, t = nets.spec.example(), jnp.ones(4), jnp.float32(0.5)
    labelled = nets.velocity_field(labels=3)
    params = labelled.init(jax.random.key(0), obs, action, t, jnp.int32(0))
    outs = [labelled.apply(params, obs, action, t, label).tolist() for label in jnp.arange(3)]
    assert outs[0] != outs[1] != outs[2]
    mean, _ = nets.gaussian_head(goal=True, width=7).init_with_output(jax.random.key(0), obs)[0]
    assert mean.shape == (7,)
    scalar = nets.scalar_head()
    assert scalar.init_with_output(jax.random.key(0), obs, action, jnp.ones(5))[0].shape == ()


def test_log_standard_deviation_lies_between_minus_five_and_two():
    spec = Spec((2,), 1, 1)
    gaussian = networks.Networks.of(spec, policy_hidden=(4,)).gaussian
    params = gaussian.init(jax.random.key(0), spec.example())
    for bias, expected in ((-100.0, -5.0), (100.0, 2.0), (-1.5, -1.5)):
        moved = jax.tree.map(
            lambda x, b=bias: jnp.full_like(x, b) if x.ndim == 1 else 0 * x, params
        )
        np.testing.assert_allclose(gaussian.apply(moved, spec.example())[1], expected)
