"""Critic and policy learners: what each loss is, and what it moves."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import at, tiny

from qgf_jax.core import losses
from qgf_jax.core.networks import Networks
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.training.global_batch import batch_loss
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import train_step
from qgf_jax.types import Actor, Batch, Learner, Loss, Obs, Spec

SPEC = Spec(state=(3,), action=2, chunk=2)
N = 6


def make_batch(seed=0, spec=SPEC, **changes):
    keys = jax.random.split(jax.random.key(seed), 6)
    batch = Batch(
        obs=spec.observation(jax.random.normal(keys[0], (N, spec.width))),
        action=jnp.tanh(jax.random.normal(keys[1], (N, 4))),
        reward=jax.random.normal(keys[2], (N,)),
        discount=jnp.full(N, 0.9).at[2].set(0.0),
        next_obs=spec.observation(jax.random.normal(keys[3], (N, spec.width))),
        weight=jnp.ones(N).at[4].set(0.0),
        actor=Actor(jnp.zeros(0), jnp.zeros(0), jnp.zeros(0)),
        long_action=jnp.zeros(0),
    )
    return as_without_goals(batch._replace(**changes))


def as_without_goals(batch):
    """A policy sees what a critic sees, and a return is as long as a chunk."""
    actor = Actor(batch.obs, batch.next_obs, batch.weight)
    return batch._replace(actor=actor, long_action=batch.action)


def loss_of(learner, group, params, target_params, batch, key=None):
    """The loss [] of a group over a batch."""
    key = jax.random.key(0) if key is None else key
    return batch_loss(learner.losses[group], params, target_params, batch, key)[0]


def batched(f, *inputs):
    """[E, B] of an ensemble's `f` (members, obs, action) -> [E]."""
    members, *rest = inputs
    return np.asarray(jax.vmap(lambda *x: f(members, *x), out_axes=1)(*rest))


@pytest.fixture(scope="module")
def setup():
    config = tiny()
    learner = Builder(config, SPEC).learner()
    params = jax.jit(learner.init)(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    other = jax.jit(learner.init)(jax.random.key(1), SPEC.example(), jnp.zeros(4))
    nets = Builder(config, SPEC).networks()
    return nets, learner, params, {"critic": other["critic"]}


def test_critic_loss_is_the_mean_over_members_and_batch_with_zero_weights_counted(setup):
    nets, learner, params, target = setup
    batch = make_batch()
    loss = loss_of(learner, "critic", params, target, batch)
    q = batched(nets.apply_ensemble, params["critic"], batch.obs, batch.action)
    v = np.asarray(jax.vmap(lambda o: nets.value.apply(params["value"], o))(batch.next_obs))
    goal = np.asarray(batch.reward) + np.asarray(batch.discount) * v
    assert goal[2] == batch.reward[2]  # nothing is bootstrapped where the discount is 0
    expected = (np.asarray(batch.weight) * (q - goal) ** 2).sum() / (2 * N)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_value_loss_is_the_expectile_of_the_least_slow_critic(setup):
    nets, learner, params, target = setup
    batch = make_batch()
    loss = loss_of(learner, "value", params, target, batch)
    q = batched(nets.apply_ensemble, target["critic"], batch.obs, batch.action).min(axis=0)
    v = np.asarray(jax.vmap(lambda o: nets.value.apply(params["value"], o))(batch.obs))
    error = q - v
    weight = np.where(error < 0, 0.1, 0.9) * np.asarray(batch.weight)
    np.testing.assert_allclose(loss, (weight * error**2).sum() / N, rtol=1e-5)


@pytest.mark.parametrize("weighted", [True, False])
def test_policy_loss_leaves_spliced_chunks_out_only_if_weighted(weighted):
    config = tiny(**{"policy.weighted": weighted})
    learner = Builder(config, SPEC).learner()
    params = learner.init(jax.random.key(0), SPEC.example(), jnp.zeros(4))

    def loss(action):
        batch = make_batch()
        batch = as_without_goals(batch._replace(action=batch.action.at[4].set(action)))
        return loss_of(learner, "policy", params, {}, batch, jax.random.key(7))

    slope = jax.grad(loss)(jnp.zeros(4))
    assert (np.abs(slope).max() > 0) == (not weighted)


def test_policy_loss_is_flow_matching_averaged(setup):
    """Rebuilt from its parts, with the same keys."""
    nets, learner, params, target = setup
    batch, key = make_batch(), jax.random.key(5)
    time_key, noise_key = jax.random.split(key)
    t, noise = jax.random.uniform(time_key, (N,)), jax.random.normal(noise_key, (N, 4))
    each = [
        losses.flow_matching(
            lambda a, s, i=i: nets.policy.apply(params["policy"], at(batch.obs, i), a, s),
            batch.action[i], noise[i], t[i],
        )
        for i in range(N)
    ]  # fmt: skip
    loss = loss_of(learner, "policy", params, target, batch, key)
    np.testing.assert_allclose(loss, (np.array(each) * np.asarray(batch.weight)).mean(), rtol=1e-5)


def test_paper_preset_differs_only_where_it_says():
    default, paper = tiny(), tiny(preset="paper")
    assert default["policy"] == {"time_grid": 0, "weighted": True}
    assert paper["policy"] == {"time_grid": 10, "weighted": False}
    assert paper["data"]["masks"] == "trajectory" and default["data"]["masks"] == "task"
    assert paper["optimizer"]["lagged_target"] and not default["optimizer"]["lagged_target"]


def test_merge_refuses_two_losses_for_one_group():
    one = Learner(lambda *_: {}, {"critic": Loss(lambda *_: (jnp.zeros(()), {}))})
    with pytest.raises(ValueError, match="critic"):
        Learner.merge(one, one)


@pytest.mark.parametrize(
    ("noise", "action", "expected"),
    [
        (0.0, 0.2, 0.04),
        (0.1, 0.0, 0.01),  # the square of its standard deviation
        (100.0, 0.0, 0.25),  # nearly all at the clip
        (100.0, 0.8, (1.0**2 + 0.3**2) / 2),  # the box clips too
    ],
)
def test_td_blurs_the_next_action_and_clips_the_blur(noise, action, expected):
    """Where Q is 0 and slow Q the action's first number, the loss is that number's mean square."""
    n = 8000
    nets = SimpleNamespace(
        apply_ensemble=lambda members, obs, a: members * a[0],
        clip=lambda action: Networks.clip(SimpleNamespace(spec=SPEC), action),
    )
    sample = lambda params, obs, key, weight: jnp.full(2, action)
    learner = Part.named("critic", "td").make(nets, sample, rho=0.0, noise=noise)
    zeros, ones = jnp.zeros((n, 2)), jnp.ones(n)
    batch = make_batch()._replace(
        obs=Obs(zeros),
        action=zeros,
        next_obs=Obs(zeros),
        reward=0 * ones,
        discount=ones,
        weight=ones,
    )
    batch = as_without_goals(batch)
    params, target = {"critic": jnp.zeros(2)}, {"critic": jnp.ones(2)}
    loss = jax.jit(functools.partial(loss_of, learner, "critic"))(params, target, batch)
    np.testing.assert_allclose(loss, expected, rtol=0.06)


def test_a_dual_variable_is_a_group_whose_loss_ascends():
    """The most x with x ** 2 <= 1, by the Lagrangian: x is 1, and the multiplier 1/2."""

    def primal(params, target_params, x, noise):
        return -params["x"] + jnp.exp(params["log_dual"]) * (params["x"] ** 2 - 1.0), {}

    def dual(params, target_params, x, noise):
        return -jnp.exp(params["log_dual"]) * (params["x"] ** 2 - 1.0), {}

    losses = {"x": Loss(primal), "log_dual": Loss(dual, weighted=False)}
    params = {"x": jnp.float32(0.0), "log_dual": jnp.float32(0.0)}
    tx, batch = optax.sgd(0.1), make_batch(weight=jnp.ones(N))
    state = TrainState(jnp.int32(0), jax.random.key(0), params, {}, tx.init(params))
    step = lambda state, _: (train_step(state, batch, losses=losses, tx=tx, tau=0.1)[0], None)
    end = jax.lax.scan(step, state, None, 300)[0].params
    np.testing.assert_allclose(end["x"], 1.0, atol=1e-4)
    np.testing.assert_allclose(jnp.exp(end["log_dual"]), 0.5, atol=1e-4)
