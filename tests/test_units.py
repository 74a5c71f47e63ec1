"""Guidance as the tilt of a distribution: exact for a Gaussian policy and a linear critic."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qgf_guide import flow, guidance
from qgf_jax.core import losses
from qgf_jax.data.chunks import Dataset
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.training import calibration as calibrate
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Obs, Spec

MEAN, VARIANCE = np.array([0.3, -0.2], np.float32), np.array([0.25, 0.04], np.float32)
SLOPE, BETA = np.array([0.2, -1.0], np.float32), 0.7


def velocity(a, t):
    """The exact field from N(0, I) to N(MEAN, VARIANCE)."""
    spread = (1 - t) ** 2 + t**2 * VARIANCE
    end = MEAN + t * VARIANCE / spread * (a - t * MEAN)
    return (end - a) / (1 - t)


def q(a):
    return SLOPE @ a


def ends(**options):
    field = guidance.guide(velocity, q, weight=BETA, **options)
    noise = jax.random.normal(jax.random.key(0), (4000, 2))
    run = functools.partial(flow.integrate, field, num_steps=200)
    return np.asarray(jax.jit(jax.vmap(run))(noise))


UNCLIPPED = functools.partial(flow.endpoint, clip=False)
CALIBRATION = {"q_std": jnp.float32(1.0), "values": VARIANCE, "vectors": jnp.eye(2)}


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "one_step_jacobian", "schedule": "ratio", "cap": 1e6, "endpoint": UNCLIPPED},
        {
            "precondition": functools.partial(guidance.UNITS["posterior"], CALIBRATION),
            "endpoint": UNCLIPPED,
        },
    ],
    ids=["jacobian_schedule", "posterior"],
)  # fmt: skip
def test_gaussian_policy_moves_by_its_covariance_times_the_slope(options):
    """policy * exp(beta * slope a) is N(mean + beta * variance * slope, variance)."""
    found, plain = ends(**options), ends(rule="unguided")
    expected = BETA * VARIANCE * SLOPE
    np.testing.assert_allclose((found - plain).mean(axis=0), expected, rtol=0.03)
    np.testing.assert_allclose(found.std(axis=0), np.sqrt(VARIANCE), rtol=0.05)


def test_classifier_guidance_is_the_exact_tilt_and_the_action_over_t_besides():
    """By the exact critic of noisy actions, log E[exp(beta q(a)) | a_t] / beta, whose slope is known."""
    t, action, b = jnp.float32(0.4), jnp.array([0.5, -1.5]), BETA * VARIANCE * SLOPE
    slope = 0.4 * VARIANCE / (0.6**2 + 0.4**2 * VARIANCE) * SLOPE
    field = functools.partial(
        guidance.guide, velocity, lambda a, t: slope @ a, rule="classifier_noise_aware"
    )
    guided = field(weight=1.0, inverse_temperature=BETA)(action, t)
    exact = velocity(action - t * b, t) + b  # the field to N(MEAN + b, VARIANCE)
    np.testing.assert_allclose(guided - action / t, exact, rtol=1e-5)
    # With beta = 0 what is added is the velocity of a density that is the same everywhere.
    outward = field(weight=0.1, inverse_temperature=0.0)(action, t)
    np.testing.assert_allclose(outward, velocity(action, t) + 0.1 * action / t, rtol=1e-6)


def test_classifier_guidance_as_the_public_code_writes_it():
    """v + weight * ((1 - t) * beta * slope + a) / t, and v alone at t = 0."""
    field = guidance.guide(velocity, q, weight=0.3, rule="classifier", inverse_temperature=2.0)
    action = jnp.array([0.5, -1.5])
    for t in (0.1, 0.75):
        expected = velocity(action, t) + 0.3 * ((1 - t) * 2.0 * SLOPE + action) / t
        np.testing.assert_allclose(field(action, jnp.float32(t)), expected, rtol=1e-5)
    np.testing.assert_allclose(field(action, jnp.float32(0)), velocity(action, 0.0), rtol=1e-6)
    moved = jax.grad(lambda a: field(a, jnp.float32(0)).sum())(action)
    assert np.isfinite(moved).all()


def test_linex_loss_is_least_at_the_log_of_the_mean_exponential():
    targets = jnp.array([-1.0, 0.5, 1.2])
    slope = jax.grad(lambda guess, bound: losses.linex(targets - guess, bound).sum())
    best = jnp.log(jnp.exp(targets).mean())
    np.testing.assert_allclose(slope(best, 5.0), 0.0, atol=1e-6)
    np.testing.assert_allclose(slope(best - 0.1, 5.0), 3 * (1 - np.exp(0.1)), rtol=1e-5)
    # Beyond the bound an error pulls with slope 1, however large it is.
    np.testing.assert_allclose(losses.linex(jnp.array([200.0, -2.0]), 5.0), [200, np.exp(-2) + 1])
    np.testing.assert_allclose(slope(jnp.float32(-200.0), 5.0), -3.0)


def test_units_are_what_they_say():
    covariance = np.array([[0.25, 0.08], [0.08, 0.04]], np.float32)
    values, vectors = np.linalg.eigh(covariance)
    calibration = {"q_std": jnp.float32(2.0), "values": values, "vectors": vectors}
    found = {
        name: unit(calibration, SLOPE, jnp.float32(0.0))
        for name, unit in guidance.UNITS.items()
        if name != "velocity"
    }
    np.testing.assert_allclose(found["raw"], SLOPE)
    np.testing.assert_allclose(found["spread"], SLOPE / 2)
    np.testing.assert_allclose(found["variance"], VARIANCE * SLOPE / 2, rtol=1e-5)
    np.testing.assert_allclose(found["covariance"], covariance @ SLOPE / 2, rtol=1e-5)
    np.testing.assert_allclose(found["posterior"], found["covariance"], rtol=1e-5)  # at t = 0
    t = 0.6
    halfway = guidance.UNITS["posterior"](calibration, SLOPE, jnp.float32(t))
    left = (1 - t) * covariance @ np.linalg.inv((1 - t) ** 2 * np.eye(2) + t**2 * covariance)
    np.testing.assert_allclose(halfway, left @ SLOPE / 2, rtol=1e-4)


SPEC = Spec(state=(1,), action=2, chunk=1)


def trained(scale, shift):
    """A bandit whose critic is `scale` times another's, and shifted: (params, target) of one seed."""
    rng = np.random.default_rng(0)
    action = np.clip(rng.normal(MEAN, 0.2, (2000, 2)), -1, 1).astype(np.float32)
    row = np.arange(2000, dtype=np.int32)
    dataset = Dataset(
        obs=rng.uniform(-1, 1, (2000, 1)).astype(np.float32), action=action, row=row, next_row=row,
        weight=np.ones(2000, np.float32), reward=np.zeros(2000, np.float32),
        discount=np.zeros(2000, np.float32),
    )  # fmt: skip
    config = tiny(**{"networks.policy_hidden": (16,), "networks.critic_hidden": (16,)})
    trainer = Trainer.of(Builder(config, SPEC).learner(), config, SPEC)
    state = trainer.init(np.array([0]))
    last = state.target_params["critic"]["params"]["MLP_0"]["Dense_1"]
    bent = {"kernel": scale * last["kernel"], "bias": scale * last["bias"] + shift}
    critic = {
        "params": {"MLP_0": {**state.target_params["critic"]["params"]["MLP_0"], "Dense_1": bent}}
    }
    state = state.replace(target_params={"critic": critic})
    constants = calibrate.measure(config, SPEC, state, dataset)
    groups = (state.params, state.target_params | {"calibration": constants})
    return config, jax.tree.map(lambda x: x[0], groups)


@pytest.mark.whole
def test_relative_weight_does_not_see_scale_and_shift_of_the_rewards():
    actions = {}
    for name, scale, shift in (("plain", 1.0, 0.0), ("other", 100.0, -7.0)):
        config, groups = trained(scale, shift)
        for method in ("qgf_relative", "qgf"):
            sample = Builder(config, SPEC).sample(method)
            keys = jax.random.split(jax.random.key(0), 20)
            acting = algorithms.acting_params(*groups)
            act = lambda k, s=sample, p=acting: s(p, SPEC.example(), k, jnp.float32(2.0))
            actions[name, method] = np.asarray(jax.jit(jax.vmap(act))(keys))
    np.testing.assert_allclose(
        actions["plain", "qgf_relative"], actions["other", "qgf_relative"], atol=2e-3
    )
    assert np.abs(actions["plain", "qgf"] - actions["other", "qgf"]).max() > 0.1


def test_constants_are_the_spread_of_reference_actions_and_of_their_q():
    config, (params, target) = trained(1.0, 0.0)
    sample = Builder(config, SPEC).sample("reference")
    nets = Builder(config, SPEC).networks()
    keys = jax.random.split(jax.random.key(5), 400)
    spreads, covariances = [], []
    acting = algorithms.acting_params(params, target)
    act = jax.jit(jax.vmap(lambda o, k: sample(acting, o, k, jnp.float32(0)), (None, 0)))
    spread = jax.jit(lambda o, a: jnp.std(jax.vmap(nets.q_of(target["critic"], o))(a)))
    for state in np.linspace(-1, 1, 15, dtype=np.float32)[:, None]:
        obs = Obs(state)
        actions = act(obs, keys)
        spreads.append(float(spread(obs, actions)))
        covariances.append(np.cov(np.asarray(actions).T))
    found = target["calibration"]
    np.testing.assert_allclose(found["q_std"], np.median(spreads), rtol=0.15)
    expected = np.mean(covariances, axis=0)
    vectors = np.asarray(found["vectors"])
    covariance = vectors @ np.diag(found["values"]) @ vectors.T
    np.testing.assert_allclose(covariance, expected, rtol=0.1, atol=0.02)


def test_constants_of_actions_and_values_that_are_known(monkeypatch):
    """Actions around (0.5, -0.3), and in a quarter of the states a critic a hundred times as steep."""
    sample = lambda params, obs, key, weight: (
        jnp.array([0.5, -0.3]) + 0.1 * jax.random.normal(key, (2,))
    )
    steep = lambda members, obs: (
        lambda action: jnp.where(obs.state[0] > 0.5, 100.0, 1.0) * action[0]
    )
    monkeypatch.setattr(Builder, "sample", lambda *_: sample)
    logit = lambda members, obs: lambda action: 10.0 * steep(members, obs)(action)
    nets = SimpleNamespace(q_of=steep, q_logit_of=logit, bounded=True)
    monkeypatch.setattr(Builder, "networks", lambda _: nets)
    n = 1000
    row = np.arange(n, dtype=np.int32)
    dataset = Dataset(
        obs=np.linspace(-1, 1, n, dtype=np.float32)[:, None],
        action=np.zeros((n, 2), np.float32), row=row, next_row=row,
        weight=np.ones(n, np.float32), reward=np.zeros(n, np.float32),
        discount=np.zeros(n, np.float32),
    )  # fmt: skip
    nothing = {"critic": jnp.zeros(1)}
    state = SimpleNamespace(params={}, target_params=nothing)
    found = calibrate.measure(tiny(), SPEC, state, dataset)
    np.testing.assert_allclose(found["q_std"], [0.1], rtol=0.1)  # the mean would be 2.6
    np.testing.assert_allclose(found["logit_std"], 10.0 * found["q_std"], rtol=1e-5)
    np.testing.assert_allclose(found["values"], [[0.01, 0.01]], rtol=0.1)  # about 0: 0.35
