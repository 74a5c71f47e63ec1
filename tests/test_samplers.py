"""Samplers over real networks: weights are traced, best-of-N picks within its own candidates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.types import Obs, Spec

SPEC = Spec(state=(3,), action=2, chunk=2)


@pytest.fixture(scope="module")
def groups():
    learner = Builder(tiny(), SPEC).learner()
    params = jax.jit(learner.init)(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    return params, {"critic": params["critic"]}


def test_weight_zero_is_the_reference_and_more_weight_means_more_q(groups):
    obs, keys = Obs(jnp.ones(3) * 0.3), jax.random.split(jax.random.key(3), 64)
    nets, params = Builder(tiny(), SPEC).networks(), algorithms.acting_params(*groups)

    def actions(method, weight):
        sample = Builder(tiny(), SPEC).sample(method)
        return jax.jit(jax.vmap(lambda k: sample(params, obs, k, jnp.float32(weight))))(keys)

    np.testing.assert_allclose(actions("qgf", 0.0), actions("reference", 5.0), atol=1e-5)
    q = jax.vmap(nets.q_of(groups[1]["critic"], obs))
    reference, some, more = (q(actions("qgf", w)).mean() for w in (0.0, 1.0, 10.0))
    assert reference < some < more


def test_slow_critic_guides_and_ranks(groups):
    """The online critic says the opposite here; nobody may notice."""
    params, target = groups
    flipped = params | {"critic": jax.tree.map(lambda x: -x, params["critic"])}
    for method, n in (("qgf", 1), ("best_of", 6), ("grad_step", 1)):
        act = jax.jit(Builder(tiny(), SPEC).sample(method, n))
        for seed in range(4):
            args = (Obs(jnp.ones(3)), jax.random.key(seed), jnp.float32(1))
            other, one = (algorithms.acting_params(p, target) for p in (flipped, params))
            np.testing.assert_array_equal(act(other, *args), act(one, *args))


def test_best_of_keeps_the_candidate_with_the_highest_q(groups):
    nets = Builder(tiny(), SPEC).networks()
    sample = Builder(tiny(), SPEC).sample("reference")
    obs, key, params = Obs(jnp.ones(3)), jax.random.key(4), algorithms.acting_params(*groups)
    best = Part.named("selector", "best_of").make(nets, sample, 8)(params, obs, key, jnp.float32(0))
    candidates = [sample(params, obs, k, jnp.float32(0)) for k in jax.random.split(key, 8)]
    q = [float(nets.q_of(groups[1]["critic"], obs)(a)) for a in candidates]
    np.testing.assert_allclose(best, candidates[int(np.argmax(q))], atol=2e-3)
    chosen = Builder(tiny(), SPEC).sample("reference", 8)(params, obs, key, jnp.float32(0))
    np.testing.assert_allclose(chosen, best, atol=2e-3)
    first = Builder(tiny(), SPEC).sample("reference", 1)(params, obs, key, jnp.float32(0))
    np.testing.assert_allclose(first, sample(params, obs, key, jnp.float32(0)), atol=2e-3)


STEPS, OBS, KEY = 3, Obs(jnp.ones(3) * 0.2), jax.random.key(9)


def made(name, **options):
    """(networks, params, slow copies, action of a method with `options`)."""
    config = tiny(name)
    learner, nets = (
        Builder(config, SPEC).learner(),
        Builder(config, SPEC).networks(),
    )
    params = jax.jit(learner.init)(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    slow = jax.jit(learner.init)(jax.random.key(1), SPEC.example(), jnp.zeros(4))
    target = {group: slow[group] for group in learner.targets}
    sample = Builder(config, SPEC).sample(name, options=tuple(options.items()))
    acting = algorithms.acting_params(params, target)
    return (
        nets,
        params,
        target,
        lambda w: np.asarray(jax.jit(sample)(acting, OBS, KEY, jnp.float32(w))),
    )


def flowed(velocity, start):
    for k in range(STEPS):
        start = start + np.asarray(velocity(start, jnp.float32(k / STEPS))) / STEPS
    return np.clip(start, -1, 1)


NOISE = np.asarray(jax.random.normal(KEY, (4,)))


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_classifier_free_guidance_goes_from_one_label_to_the_other(weight):
    nets, params, _, act = made("cfgrl")

    def velocity(a, t):
        plain, better = (
            nets.labelled.apply(params["actor"], OBS, a, t, jnp.int32(label)) for label in (0, 1)
        )
        return plain + weight * (better - plain)

    np.testing.assert_allclose(act(weight), flowed(velocity, NOISE), atol=2e-3)


@pytest.mark.parametrize("sign", [False, True])
def test_gradient_steps_follow_the_flow(sign):
    nets, params, target, act = made("grad_step", steps=2, sign=sign)
    action = flowed(nets.velocity(params["policy"], OBS), NOISE)
    for _ in range(2):
        slope = np.asarray(jax.grad(nets.q_of(target["critic"], OBS))(jnp.asarray(action)))
        action = np.clip(action + 0.4 * (np.sign(slope) if sign else slope), -1, 1)
    np.testing.assert_allclose(act(0.4), action, atol=2e-3)


def test_steering_starts_the_slow_flow_at_the_actors_noise():
    nets, params, target, act = made("dsrl", noise_scale=1.4)
    mean, log_std = nets.gaussian.apply(params["actor"], OBS)
    start = 1.4 * np.tanh(np.asarray(mean + jnp.exp(log_std) * NOISE))
    expected = flowed(nets.velocity(target["policy"], OBS), start)
    np.testing.assert_allclose(act(0.0), expected, atol=2e-3)


def test_one_shot_and_gaussian_actions_are_their_networks():
    nets, params, _, act = made("fql")
    expected = nets.one_step.apply(params["actor"], OBS, NOISE, jnp.float32(0))
    np.testing.assert_allclose(act(0.0), np.clip(expected, -1, 1), atol=1e-5)
    nets, params, target, act = made("rebrac")
    mean, _ = nets.gaussian.apply(target["actor"], OBS)
    np.testing.assert_allclose(act(0.0), np.tanh(mean), atol=1e-5)
    nets, params, _, act = made("iql", temperature=0.5)
    mean, log_std = nets.gaussian.apply(params["actor"], OBS)
    drawn = np.clip(mean + 0.5 * np.exp(log_std) * NOISE, -1, 1)
    np.testing.assert_allclose(act(0.0), drawn, atol=1e-5)
