"""QPILOTS-M on Gaussian actions, of which every noisy one has a Gaussian posterior that is known."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny
from jax.flatten_util import ravel_pytree
from test_agf import BEND, BEST, Quadratic, q

from qgf_guide import flow, guidance
from qgf_guide.rules.draws import antithetic_noise
from qgf_jax.core import networks
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.policies.posterior import posterior_flow
from qgf_jax.training.global_batch import batch_loss
from qgf_jax.types import Actor, Batch, Spec

MEAN, VARIANCE = np.array([0.4, -0.7], np.float32), np.array([0.25, 0.09], np.float32)
SPEC = Spec(state=(1,), action=2, chunk=1)
OBS = SPEC.example()
A, T = np.array([0.7, -1.1], np.float32), np.float32(0.6)
TAU = np.float32(0.3)
KEY = jax.random.key(3)


def posterior(a_t, t):
    """Mean, variance and d mean / d a_t of a given a_t = (1 - t) z + t a, a ~ N(MEAN, VARIANCE)."""
    spread = (1 - t) ** 2 + t**2 * VARIANCE
    gain = t * VARIANCE / spread
    return MEAN + gain * (a_t - t * MEAN), VARIANCE * (1 - t) ** 2 / spread, gain


def rate(tau, variance):
    """The exact velocity from N(0, 1) to N(mean, variance) is mean + rate * (x - tau * mean)."""
    return (tau * variance - (1 - tau)) / ((1 - tau) ** 2 + tau**2 * variance)


def velocity(a_t, t):
    """The reference flow's."""
    return MEAN + rate(t, VARIANCE) * (a_t - t * MEAN)


def drawn(a_t, t, noise, steps):
    """The clean action that `noise` becomes in so many Euler steps; its mean is exact in any number."""
    mean, variance, _ = posterior(a_t, t)
    factor = 1.0
    for k in range(steps):
        factor = factor * (1 + rate(k / steps, variance) / steps)
    return mean + factor * noise


def time_of(code):
    """What a sinusoidal code [16] is of, by its lowest frequency."""
    return jnp.arctan2(code[15], code[7]) / 10000.0**0.125


class Exact(nn.Module):
    """The reference's velocity, and given more than an action that of the posterior's flow."""

    @nn.compact
    def __call__(self, obs, seen, t):
        idle = self.param("idle", nn.initializers.zeros, ())
        if seen.shape == (2,):
            return velocity(seen, t) + idle
        x, a_t, code = jnp.split(seen, (2, 4))
        mean, variance, _ = posterior(a_t, time_of(code))
        return mean + rate(t, variance) * (x - t * mean) + idle


class Linear(nn.Module):
    """on_x * x + on_action * a_t + shift, if a_t is one at time T and x one at TAU."""

    @nn.compact
    def __call__(self, obs, seen, t):
        names = ("on_x", "on_action", "shift")
        rows = [self.param(name, nn.initializers.zeros, (2,)) for name in names]
        clocks = time_of(seen[4:]) / T, t / TAU
        return rows[0] * seen[:2] * clocks[1] + rows[1] * seen[2:4] * clocks[0] + rows[2]


class Known(networks.Networks):
    """Networks that are exact."""

    policy = property(lambda self: Exact())
    critic = property(lambda self: Quadratic())


class Learned(networks.Networks):
    """Networks that least squares fit."""

    policy = property(lambda self: Linear())


IDLE = {"params": {"idle": jnp.float32(0.0)}}


def known(cls, monkeypatch, **changes):
    """A builder whose networks are of class `cls`."""
    real = Builder.networks
    monkeypatch.setattr(Builder, "networks", lambda self: cls(**vars(real(self))))
    return Builder(tiny("qpilots_m", **changes), SPEC)


def batch_of(action):
    n = len(action)
    obs, size = SPEC.observation(jnp.zeros((n, 1))), jnp.ones(n)
    return Batch(obs, action, size, size, obs, size, Actor(obs, obs, size), size)


def test_least_squares_find_the_velocity_to_the_posterior(monkeypatch):
    """Eight examples that have the first two moments of action, noise and inner noise exactly."""
    loss = known(Learned, monkeypatch).learner().losses["posterior"]
    signs = np.array([*itertools.product((-1, 1), repeat=3)], np.float32)
    a, z, epsilon = (np.stack([x, x], axis=1) for x in signs.T)
    fixed = ((z, np.full(8, T)), (epsilon, np.full(8, TAU)))
    batch = batch_of(jnp.asarray(MEAN + np.sqrt(VARIANCE) * a))
    _, variance, gain = posterior(A, T)
    on_x = rate(TAU, variance)
    rest = 1 - TAU * on_x
    exact = {"on_x": on_x, "on_action": rest * gain, "shift": rest * (1 - T * gain) * MEAN}
    exact, unflatten = ravel_pytree(jax.tree.map(jnp.asarray, exact))

    def error(flat):
        params = {"posterior": {"params": unflatten(flat)}}
        return batch_loss(loss._replace(draw=lambda *_: fixed), params, {}, batch, KEY)[0]

    points = jnp.concatenate([jnp.zeros((1, exact.size)), jnp.eye(exact.size)])
    at_zero, *at_units = np.asarray(jax.jit(jax.vmap(jax.grad(error)))(points), np.float64)
    found = np.linalg.solve(np.stack(at_units) - at_zero, -at_zero)
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_noise_and_times_are_drawn_apart(monkeypatch):
    loss = known(Known, monkeypatch).learner().losses["posterior"]
    (noise, t), (inner, tau) = loss.draw(KEY, 4000, batch_of(jnp.zeros((1, 2)))._replace(action=A))
    for x, y in (
        (noise[:, 0], inner[:, 0]),
        (noise[:, 0], noise[:, 1]),
        (t, tau),
        (t, inner[:, 1]),
    ):
        assert abs(np.corrcoef(x, y)[0, 1]) < 0.06
    for time in (t, tau):
        assert 0 <= time.min() < 0.01 and 0.99 < time.max() < 1


def test_draws_have_the_joint_law_of_noisy_and_clean_actions(monkeypatch):
    """And their mean is where one straight step of the reference flow ends."""
    nets = known(Known, monkeypatch).networks()
    z, a, epsilon = np.random.default_rng(0).normal(size=(3, 20000, 2)).astype(np.float32)
    a = MEAN + np.sqrt(VARIANCE) * a
    a_t, _ = flow.interpolate(z, a, T)

    def draw(a_t, noise, steps=64):
        return flow.integrate(posterior_flow(nets, IDLE, OBS, a_t, T), noise, num_steps=steps)

    found = np.asarray(jax.jit(jax.vmap(draw))(a_t, epsilon))
    for i in range(2):
        ours, theirs = (np.cov(a_t[:, i], x[:, i]) for x in (found, a))
        np.testing.assert_allclose(ours, theirs, rtol=0.03, atol=0.003)
    np.testing.assert_allclose(found.mean(axis=0), a.mean(axis=0), atol=0.02)
    mean = draw(A, jnp.zeros(2), 3)
    np.testing.assert_allclose(mean, flow.endpoint(A, T, velocity(A, T), clip=False), atol=1e-5)
    np.testing.assert_allclose(draw(A, BEST, 4), drawn(A, T, BEST, 4), atol=1e-5)


def test_noise_of_a_rule_is_in_pairs_and_another_at_another_time():
    noise = antithetic_noise(T, 3, A)
    np.testing.assert_array_equal(noise[2], -noise[0])
    assert np.abs(noise - antithetic_noise(TAU, 3, A)).min() > 0.01


def direction(of=q, weight=1.0, **options):
    """The rule's at A and T, by draws that are known."""
    of_draw = lambda *given: of(drawn(*given))
    field = guidance.guide(velocity, of_draw, weight=weight, rule="soft_value", **options)
    return np.asarray(jax.jit(field)(A, T)) - velocity(A, T)


@pytest.mark.parametrize("tau", [0.0, 1.0, 20.0, 1e6])
def test_slope_of_a_quadratic_q_is_its_softmax_over_the_draws(tau):
    """From the mean of all slopes to that of the best draw, in float32."""
    noise, gain = np.asarray(antithetic_noise(T, 3, A)), posterior(A, T)[2]
    draws = np.asarray(drawn(A, T, noise, 4), np.float64)
    values = -0.5 * (BEND * (draws - BEST) ** 2).sum(axis=1)
    weights = np.exp(tau * (values - values.max()))
    expected = gain * (weights @ (BEND * (BEST - draws))) / weights.sum()
    np.testing.assert_allclose(
        direction(samples=3, inverse_temperature=tau), expected, rtol=1e-4, atol=1e-5
    )


def test_direction_is_the_slope_of_log_mean_exp_over_tau():
    def soft(a):
        values = jnp.stack([q(drawn(a, T, z, 4)) for z in antithetic_noise(T, 4, A)])
        return jnp.log(jnp.mean(jnp.exp(3.0 * values))) / 3.0

    found = direction(inverse_temperature=3.0)
    np.testing.assert_allclose(found, jax.grad(soft)(A), atol=1e-5)
    linear = direction(lambda a: BEST @ a, weight=0.5, samples=1, posterior_steps=2)
    np.testing.assert_allclose(linear, 0.5 * posterior(A, T)[2] * BEST, atol=1e-5)


def test_many_draws_have_the_slope_of_the_exact_soft_value():
    """log E[exp(tau Q) | a_t] / tau of a Gaussian and a concave quadratic."""
    bend, tau = np.array([2.0, 1.0], np.float32), 4.0
    mean, variance, gain = posterior(A, T)
    expected = gain * bend * (BEST - mean) / (1 + tau * bend * variance)
    concave = lambda a: -0.5 * jnp.sum(bend * (a - BEST) ** 2)
    found = direction(concave, samples=20000, posterior_steps=64, inverse_temperature=tau)
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_with_the_ratio_schedule_and_weight_tau_it_tilts_a_gaussian_exactly():
    tau, slope = 0.7, np.array([0.2, -1.0], np.float32)
    of_draw = lambda *given: slope @ drawn(*given)
    options = {"schedule": "ratio", "cap": 1e6, "inverse_temperature": tau}
    field = guidance.guide(velocity, of_draw, weight=tau, rule="soft_value", **options)
    noise = jax.random.normal(KEY, (500, 2))
    ends = lambda f: jax.jit(jax.vmap(functools.partial(flow.integrate, f, num_steps=200)))(noise)
    moved = np.asarray(ends(field) - ends(velocity))
    np.testing.assert_allclose(moved.mean(axis=0), tau * VARIANCE * slope, rtol=0.03)


def test_qpilots_m_is_what_its_row_says(monkeypatch):
    """Three steps by hand: none at t = 0, then in lengths of the velocity, straight through the clip."""
    builder = known(Known, monkeypatch, **{"sampler.num_steps": 3})
    params = {"policy": IDLE, "posterior": IDLE, "critic": {"params": {"idle": jnp.zeros(2)}}}
    weight, saturated, key = 0.5, 0, jax.random.key(11)
    action = np.asarray(builder.networks().noise(key))
    for k in range(3):
        t = np.float32(k / 3)
        v = velocity(action, t)
        free = drawn(action, t, np.asarray(antithetic_noise(t, 4, action)), 4)
        draws = np.clip(free, -1, 1)
        saturated += (free != draws).sum() if k else 0
        values = -0.5 * (BEND * (draws - BEST) ** 2).sum(axis=1)
        weights = np.exp(2 * values) / np.exp(2 * values).sum()
        g = posterior(action, t)[2] * (weights @ (BEND * (BEST - draws)))
        push = weight * np.linalg.norm(v) / np.linalg.norm(g) * g if k else 0.0
        action = action + (v + push) / 3
    assert saturated
    sample = builder.sample("qpilots_m", options=(("inverse_temperature", 2.0),))
    found = jax.jit(sample)(params, OBS, key, jnp.float32(weight))
    np.testing.assert_allclose(found, np.clip(action, -1, 1), atol=1e-5)


def test_two_points_are_learned_with_their_chances():
    """p(+0.8 | a_t) is the logistic function of 3.2 a_t half-way."""
    spec = Spec(state=(1,), action=1, chunk=1)
    builder = Builder(tiny("qpilots_m", **{"networks.policy_hidden": (32,)}), spec)
    nets, loss = builder.networks(), builder.learner().losses["posterior"]
    code = jnp.zeros(2 + 16)
    init = jax.jit(lambda: nets.policy.init(KEY, OBS, code, jnp.float32(0)))
    group = {"posterior": init()}
    tx = optax.adam(optax.cosine_decay_schedule(1e-2, 1500))
    batch = batch_of(jnp.tile(jnp.array([[-0.8], [0.8]]), (32, 1)))

    def step(carry, key):
        group, moments = carry
        slope = jax.grad(lambda g: batch_loss(loss, g, {}, batch, key)[0])(group)
        update, moments = tx.update(slope, moments)
        return (optax.apply_updates(group, update), moments), None

    keys = jax.random.split(KEY, 1500)
    learn = jax.jit(lambda group: jax.lax.scan(step, (group, tx.init(group)), keys)[0][0])
    learned = learn(group)["posterior"]

    @jax.jit
    @jax.vmap
    def draws(a_t):
        velocity = posterior_flow(nets, learned, OBS, a_t[None], jnp.float32(0.5))
        run = functools.partial(flow.integrate, velocity, num_steps=10)
        return jax.vmap(run)(jax.random.normal(KEY, (500, 1)))[:, 0]

    points = np.array([-0.6, 0.0, 0.3], np.float32)
    found = np.asarray(draws(points))
    np.testing.assert_allclose((found > 0).mean(axis=1), 1 / (1 + np.exp(-3.2 * points)), atol=0.1)
    assert np.median(np.abs(np.abs(found) - 0.8)) < 0.2


def test_a_run_that_has_no_posterior_can_have_it_added():
    assert algorithms.METHODS["qgf"].further("iql")["posterior"] == ("qpilots_m", "iql")
    said = Builder(tiny("qgf"), SPEC).lacking("qpilots_m", (), 1)
    assert said == "needs posterior, which it does not provide: train --config.algorithm=qpilots_m"
