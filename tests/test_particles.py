"""Particles along a flow: closed forms of a linear flow with a linear or a quadratic potential."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qgf_guide import flow
from qgf_jax.core import particles
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.table import METHODS
from qgf_jax.types import Obs, Spec

CENTRE, SPREAD, STEPS, REFRESH = 0.4, 0.6, 5, 3.0
# G_1 = PULL a - BEND a^2 / 2
PULL, BEND = 1.5, 0.8


def velocity(a, t):
    """Of the flow to N(CENTRE, SPREAD^2): E[data - noise | a_t]."""
    variance = t**2 * SPREAD**2 + (1 - t) ** 2
    return CENTRE + (t * SPREAD**2 - (1 - t)) / variance * (a - t * CENTRE)


def final(a):
    return (PULL * a - 0.5 * BEND * a**2).sum()


def potential(a, t, v):
    """Any does: this one is half again as steep as at the end, and shifted, so weights matter."""
    return 1.5 * final(a + (1 - t) * v) + 0.3 * t


def gaussian_of_the_chain(steps=STEPS, refresh=REFRESH):
    """Mean and variance of the stochastic flow's end, step by step: each is linear in a."""
    mean, variance = 0.0, 1.0
    for k in range(steps):
        t, after, h = k / steps, (k + 1) / steps, 1 / steps
        kept = np.exp(-refresh * h / 2)

        def move(a, t=t, after=after, h=h, kept=kept):
            v = velocity(a, t)
            return a + h * v + (1 - after) * (kept - 1) * (a - t * v)

        variance = (move(1.0) - move(0.0)) ** 2 * variance + (1 - after) ** 2 * (1 - kept**2)
        mean = move(mean)
    return mean, variance


def tilted(mean, variance):
    """Mean, variance and normaliser of N(mean, variance) exp(G_1)."""
    precision = 1 / variance + BEND
    centre = (mean / variance + PULL) / precision
    log_z = 0.5 * (centre**2 * precision - mean**2 / variance - np.log(precision * variance))
    return centre, 1 / precision, np.exp(log_z)


@functools.partial(jax.jit, static_argnames=("n", "runs", "twisted"))
def run(n, runs, twisted, threshold, refresh=REFRESH):
    def one(key):
        start, walk = jax.random.split(key)
        return particles.Particles.steer(
            velocity, potential, final, jax.random.normal(start, (n, 1)), walk,
            num_steps=STEPS, refresh=refresh, threshold=threshold, twist=twisted,
        )  # fmt: skip

    return jax.vmap(one)(jax.random.split(jax.random.key(7), runs))


@pytest.mark.parametrize("twisted", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])  # never, at times and always resampled
def test_a_few_particles_are_unbiased_on_a_gaussian(twisted, threshold):
    """E[Z^] = Z, and E[Z^ a^] = Z E[a] of the tilted law, for four particles as for a million."""
    found = run(4, 20_000, twisted, threshold)
    mean, variance, z = tilted(*gaussian_of_the_chain())
    evidence = np.exp(np.asarray(found.log_evidence, np.float64))
    shares = np.asarray(jax.nn.softmax(found.log_weights, axis=1), np.float64)
    actions = np.asarray(found.actions[..., 0], np.float64)
    for power, expected in enumerate((1.0, mean, variance + mean**2)):
        estimate = evidence * (shares * actions**power).sum(axis=1)
        error = estimate.std() / len(estimate) ** 0.5
        assert abs(estimate.mean() - z * expected) < 4 * error, (power, estimate.mean(), error)
        assert error < 0.02 * z


@pytest.mark.parametrize("refresh", [0.0, REFRESH])
def test_many_particles_have_the_tilted_mean_and_variance(refresh):
    found = run(60_000, 1, False, 0.5, refresh)
    mean, variance, z = tilted(*gaussian_of_the_chain(refresh=refresh))
    shares = jax.nn.softmax(found.log_weights[0])
    actions = found.actions[0, :, 0]
    assert float(shares @ actions) == pytest.approx(mean, abs=0.02)
    assert float(shares @ (actions - mean) ** 2) == pytest.approx(variance, abs=0.02)
    assert float(jnp.exp(found.log_evidence[0])) == pytest.approx(z, rel=0.02)


def test_without_resampling_weights_are_those_of_the_end():
    """The product telescopes to exp(G_1) for any potential."""
    found = run(8, 1, False, 0.0)
    expected = jax.vmap(final)(found.actions[0])
    np.testing.assert_allclose(found.log_weights[0], expected, atol=1e-5)


def test_a_twist_makes_weights_more_even():
    """Along the slope of the true potential, through the velocity, draws come nearer to the target."""

    def effective(twist):
        found = particles.Particles.steer(
            velocity, lambda a, t, v: final(a + (1 - t) * v), final,
            jax.random.normal(jax.random.key(0), (4000, 1)), jax.random.key(1),
            num_steps=STEPS, refresh=REFRESH, threshold=0.0, twist=twist,
        )  # fmt: skip
        return float(found.effective_size) / 4000

    assert effective(False) < 0.85 and effective(True) > 0.87


def test_the_stochastic_flow_has_the_flows_marginals():
    """In many steps, whatever the rate; and no noise is left at the end."""
    for refresh in (0.0, 1.0, 8.0):
        mean, variance = gaussian_of_the_chain(steps=2000, refresh=refresh)
        np.testing.assert_allclose([mean, variance], [CENTRE, SPREAD**2], atol=2e-3)
    a, v = jnp.ones((1, 2)), jnp.full((1, 2), 0.5)
    last = particles._Move.of(a, jnp.float32(0.8), jnp.float32(1.0), v, jnp.float32(9.0))
    np.testing.assert_allclose(last.mean, 1.1 * np.ones((1, 2)), rtol=1e-6)
    assert last.std == 0.0
    first = particles._Move.of(a, jnp.float32(0.0), jnp.float32(0.2), v, jnp.float32(4.0))
    kept = np.exp(-0.4)
    np.testing.assert_allclose(first.mean, 1.1 + 0.8 * (kept - 1) * np.ones((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(first.std, 0.8 * np.sqrt(1 - kept**2), rtol=1e-6)


def weighed(log_weights):
    return particles.Particles(jnp.zeros((len(log_weights), 1)), log_weights, jnp.zeros(()))


def test_systematic_children_are_n_p_rounded_up_or_down():
    p = np.array([0.05, 0.5, 0.0, 0.33, 0.12], np.float32)
    log_p = jnp.log(p) + 3.0  # not normalised
    u = (jnp.arange(1000) + 0.5) / 1000
    chosen = np.asarray(jax.vmap(weighed(log_p).ancestors)(u))
    children = np.stack([np.bincount(each, minlength=5) for each in chosen])
    assert (children >= np.floor(5 * p)).all() and (children <= np.ceil(5 * p)).all()
    np.testing.assert_allclose(children.mean(axis=0), 5 * p, atol=2e-3)
    assert float(weighed(log_p).effective_size) == pytest.approx(1 / (p**2).sum(), rel=1e-5)
    one = jnp.array([-jnp.inf, 0.0, -jnp.inf])
    assert weighed(one).ancestors(jnp.float32(0.999)).tolist() == [1, 1, 1]


def test_particles_are_resampled_in_the_window_alone():
    """Weights are uneven at once; where they are resampled, ends share ancestors at refresh 0."""

    def distinct(window):
        found = particles.Particles.steer(
            velocity, lambda a, t, v: 5 * final(a + (1 - t) * v), final,
            jax.random.normal(jax.random.key(0), (16, 1)), jax.random.key(1),
            num_steps=STEPS, refresh=0.0, threshold=1.0, window=window,
        )  # fmt: skip
        return len(np.unique(found.actions))

    assert distinct((0.05, 0.15)) == distinct((0.85, 0.95)) == 16  # t is 0, 0.2, …, 0.8
    assert distinct((0.05, 0.95)) < 16 and distinct((0.75, 0.85)) < 16


SPEC = Spec(state=(3,), action=2, chunk=2)
OBS, KEY = Obs(jnp.ones(3) * 0.2), jax.random.key(9)


@pytest.fixture(scope="module")
def acting():
    """(builder, parameters)"""
    builder = Builder(tiny(), SPEC)
    params = builder.learner().init(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    return builder, algorithms.acting_params(params, {"critic": params["critic"]})


def test_at_weight_zero_particles_are_the_references_own_action(acting):
    builder, params = acting
    for options in ((), (("twisted", True),)):
        found = builder.sample("particles", 1, options)(params, OBS, KEY, jnp.float32(0))
        reference = builder.sample("reference")(params, OBS, KEY, jnp.float32(0))
        np.testing.assert_allclose(found, reference, atol=1e-5)


def test_more_weight_is_more_q(acting):
    builder, params = acting
    q = jax.vmap(builder.networks().q_of(params["critic"], OBS))
    keys = jax.random.split(KEY, 32)

    def mean_q(weights):
        sample = builder.sample("particles")
        act = jax.jit(jax.vmap(lambda k, w: sample(params, OBS, k, w), (0, None)))
        return [float(q(act(keys, jnp.float32(w))).mean()) for w in weights]

    reference, some, more = mean_q((0.0, 1.0, 100.0))
    assert reference < some < more, (reference, some, more)


def test_the_sampler_integrates_the_flow_of_the_policy(acting):
    """One particle without noise is the flow from its noise, whatever its weight."""
    builder, params = acting
    options = (("count", 1), ("refresh", 0.0))
    found = builder.sample("particles", 1, options)(params, OBS, KEY, jnp.float32(3))
    field = builder.networks().velocity(params["policy"], OBS)
    expected = flow.integrate(field, jax.random.normal(KEY, (4,)), num_steps=3)
    np.testing.assert_allclose(found, jnp.clip(expected, -1, 1), atol=1e-5)
    assert METHODS["particles"].weighted and METHODS["particles"].best_of == (1,)
