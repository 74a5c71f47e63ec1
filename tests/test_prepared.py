"""Networks prepared for one observation have the numbers of the plain ones, in every method."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import LONG, tiny

from qgf_jax.core import encoders, prepared, reductions
from qgf_jax.core.networks import Networks
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.runs import blocks
from qgf_jax.types import Obs, Spec

OWN = ("qgf_jacobian", "bptt", "qgf_distill", "robust_q", "agf", "cfgrl", "seed_critic", "qrl")
"""Methods that between them call each network that is prepared, and one that cannot be."""
ACTING = [name for name, row in algorithms.METHODS.items() if row.acts and (LONG or name in OWN)]


@contextlib.contextmanager
def plain():
    """Nothing is prepared inside, as in training; layer norms are a CPU's in any case."""
    with reductions.for_training():
        yield


def check_same(function, *args):
    """To 1e-6 of the largest number of each array, prepared and plain, in one program."""

    @jax.jit
    def both(*args):
        ready = function(*args)
        with plain():
            return ready, function(*args)

    def check(found, wanted):
        scale = max(1.0, float(jnp.abs(wanted).max()))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * scale)

    jax.tree.map(check, *both(*args))


def moved(params):
    """Other numbers than those of the start, of which biases are 0."""
    leaves, form = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    new = [x + 0.1 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(form, new)


def networks(**options):
    """With scales of observations, and a goal."""
    spec = Spec((3,), 2, 2, goal=(2,)).scaled((1.0, 2.0, 3.0, 4.0, 5.0), (2.0, 2.0, 2.0, 4.0, 4.0))
    sizes = {"policy_hidden": (8, 8), "critic_hidden": (8, 8), "ensemble": 3}
    precision = options.pop("precision", "float32")
    return Networks.of(spec, precision, **{**sizes, **options})


OBS = Obs(jnp.array([0.3, -1.2, 2.0]), jnp.array([5.0, -3.0]))
ACTION, T = jnp.array([0.2, -0.4, 0.9, -0.1]), jnp.float32(0.3)


@pytest.mark.whole(but_every=4)
@pytest.mark.parametrize(
    "options",
    [{}, {"policy_goal": False, "time_feature": "raw"}, {"critic_form": "bilinear"},
     {"policy_layer_norm": False, "critic_layer_norm": False}],
)  # fmt: skip
def test_values_and_slopes_are_those_of_the_plain_networks(options):
    """Of networks that cannot be prepared too: a bilinear critic has two first layers."""
    nets = networks(**options)
    policy = moved(nets.policy.init(jax.random.key(0), OBS, ACTION, T))
    critic = moved(nets.init_ensemble(jax.random.key(1), OBS, ACTION))

    def both(params, obs, action):
        velocity, q = nets.velocity(params[0], obs), nets.q_of(params[1], obs)
        return q(action + velocity(action, T)) + velocity(action, T).sum()

    slopes = jax.value_and_grad(both, argnums=(0, 1, 2))
    check_same(slopes, (policy, critic), OBS, ACTION)


@pytest.mark.whole(but_every=4)
@pytest.mark.parametrize("method", ACTING)
def test_actions_of_every_method_are_those_of_the_plain_networks(method):
    goal = (3,) if algorithms.METHODS[method].goals else None  # as wide as a state, for `qrl`
    config, spec = tiny(method), Spec((3,), 2, 2, goal=goal, n_step=2)
    builder, obs = Builder(config, spec), Obs(OBS.state, goal and 2.0 * OBS.state)
    learner = builder.learner()
    params = moved(learner.init(jax.random.key(0), spec.example(), jnp.zeros(4)))
    names = {"q_std": (), "logit_std": (), "values": (4,), "vectors": (4, 4)}
    constants = {name: jnp.ones(sizes) for name, sizes in names.items()}
    constants["weights"] = {"near": jnp.ones(())}
    slow = {name: params[name] for name in learner.targets}
    acting = algorithms.acting_params(params, {**slow, "calibration": constants})
    act = builder.sample(method, algorithms.METHODS[method].best_of[0])
    check_same(act, acting, obs, jax.random.key(2), jnp.float32(0.3))


RUNS = []


class Pixels(nn.Module):
    """An encoder of images [H, W, C] that tells how often it runs."""

    @nn.compact
    def __call__(self, image):
        RUNS.append(image.shape)
        return nn.relu(nn.Dense(6)(jnp.ravel(image)))


def test_an_encoder_runs_once_for_all_steps_of_a_flow(monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, 3, Pixels)
    nets = Networks.of(Spec((4, 4, 1), 2, 1), policy_hidden=(5,))
    obs, action = Obs(jnp.linspace(0.0, 1.0, 16).reshape(4, 4, 1)), jnp.array([0.3, -0.7])
    params = moved(nets.policy.init(jax.random.key(0), obs, action, T))
    wanted = nets.policy.apply(params, obs, action, T)
    RUNS.clear()
    velocity = nets.velocity(params, obs)
    for found in (velocity(action, T), velocity(action, T)):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert RUNS == [(4, 4, 1)]


def test_the_observation_is_multiplied_outside_the_flow():
    """The products of a step see the action and the time alone; in training they see all."""
    nets = networks()
    policy = moved(nets.policy.init(jax.random.key(0), OBS, ACTION, T))

    def widths():
        def step(action, t):
            return velocity(action, t), None

        velocity = nets.velocity(policy, OBS)
        inner = jax.make_jaxpr(step)(ACTION, T).jaxpr
        products = [eqn for eqn in inner.eqns if eqn.primitive.name == "dot_general"]
        return [eqn.invars[1].aval.shape[0] for eqn in products if eqn.outvars[0].aval.size == 8]

    assert widths()[0] == 4 + 16
    with plain():
        assert widths()[0] == 3 + 2 + 4 + 16


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_other_precisions_agree_as_far_as_they_go(precision):
    nets = networks(precision=precision)
    policy = moved(nets.policy.init(jax.random.key(0), OBS, ACTION, T))
    found = nets.velocity(policy, OBS)(ACTION, T)
    wanted = nets.policy.apply(policy, OBS, ACTION, T)
    assert found.dtype == wanted.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=0.03 if precision == "bfloat16" else 1e-5)


def test_a_module_of_ones_own_is_called_as_it_is():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, obs, action):
            return nn.Dense(1)(jnp.concatenate([action, obs.state]))[0]

    stacked = jax.vmap(lambda key: Own().init(key, OBS, ACTION))(
        jax.random.split(jax.random.key(0))
    )
    found = prepared.members(Own(), stacked, OBS)(ACTION)
    one = jax.tree.map(lambda x: x[1], stacked)
    np.testing.assert_allclose(found[1], Own().apply(one, OBS, ACTION), rtol=1e-6)
    np.testing.assert_allclose(prepared.network(Own(), one, OBS)(ACTION), found[1], rtol=1e-6)


@pytest.mark.parametrize(("candidates", "copies"), [(1, 16), (5, 4), (16, 1)])
def test_a_lone_row_acts_among_copies_of_itself_on_an_accelerator(monkeypatch, candidates, copies):
    def act(row, key):
        return row.sum() + jax.random.normal(key, (2,))

    row, key = jnp.arange(3.0), jax.random.key(5)
    wanted = act(row, key)
    assert "f32[16,3]" not in str(jax.make_jaxpr(blocks.alone(act, candidates))(row, key))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    alone = blocks.alone(act, candidates)
    np.testing.assert_allclose(alone(row, key), wanted, rtol=1e-6)
    assert (f"f32[{copies},3]" in str(jax.make_jaxpr(alone)(row, key))) == (copies > 1)
    many = blocks.in_blocks(lambda row: 2.0 * row, 3)(jnp.arange(6.0).reshape(3, 2))
    np.testing.assert_allclose(many, 2.0 * jnp.arange(6.0).reshape(3, 2))
