"""Guided integration against closed forms: a wrong sign, time or rule changes a number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_jax import flow, guidance

DATA, BEST = np.array([[0.3, -0.2], [0.5, 0.1]], np.float32)
WEIGHT = 0.5


def q(action):
    """Highest at BEST, with slope BEST - action."""
    return -0.5 * ((action - BEST) ** 2).sum()


def to_data(action, t):
    """The flow to the single action DATA: from anywhere, its one-step endpoint is DATA."""
    return (DATA - action) / (1.0 - t)


def test_path_runs_from_noise_to_data():
    noise, action = np.array([2.0, -1.0]), np.array([0.5, 0.0])
    point, velocity = flow.interpolate(noise, action, 0.25)
    np.testing.assert_allclose(point, 0.75 * noise + 0.25 * action)
    np.testing.assert_allclose(velocity, action - noise)
    # Following the velocity from any point of the path for the time that is left gives the action.
    np.testing.assert_allclose(flow.endpoint(point, 0.25, velocity), action, atol=1e-7)


def test_endpoint_is_clipped_to_the_box():
    np.testing.assert_allclose(
        flow.endpoint(jnp.array([0.9, -3.0]), 0.5, jnp.array([1.0, 0.0])), [1.0, -1.0]
    )


@pytest.mark.parametrize("num_steps", [1, 4, 10])
@pytest.mark.parametrize(
    ("rule", "push"),
    [("unguided", 0.0), ("one_step", BEST - DATA), ("one_step_jacobian", 0.0)],
)
def test_point_mass_flow_keeps_only_the_last_push(rule, push, num_steps):
    """Each Euler step undoes the earlier pushes, leaving DATA + weight * push / num_steps.

    QGF pushes along the slope at DATA. With the exact Jacobian nothing pushes: here the endpoint
    is constant, so its Jacobian is 0.
    """
    field = guidance.guide(to_data, q, weight=WEIGHT, rule=rule)
    sample = jax.vmap(functools.partial(flow.integrate, field, num_steps=num_steps))
    noise = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)

    actions = jax.jit(sample)(noise)

    expected = np.tile(DATA + WEIGHT * push / num_steps, (8, 1))
    np.testing.assert_allclose(actions, expected, atol=1e-5)


@pytest.mark.parametrize("rule", ["noisy", "one_step", "one_step_jacobian"])
def test_linear_critic_and_constant_velocity_add_up(rule):
    """With slope c everywhere and no clip, x_1 = x_0 + v + weight * c for every rule."""
    c, v = jnp.array([0.02, -0.05]), jnp.array([0.1, 0.2])
    field = guidance.guide(lambda a, t: v, lambda a: c @ a, weight=3.0, rule=rule)
    noise = jnp.array([0.05, -0.1])
    action = flow.integrate(field, noise, num_steps=7)
    np.testing.assert_allclose(action, noise + v + 3.0 * c, atol=1e-6)


def test_noisy_rule_sees_the_action_on_its_way():
    """With no velocity, QFQL is Euler's method on the critic's own slope."""
    field = guidance.guide(lambda a, t: jnp.zeros(2), q, weight=WEIGHT, rule="noisy")
    noise = jnp.array([2.0, -2.0])  # outside the box, where a clip would show
    action = flow.integrate(field, noise, num_steps=5)
    np.testing.assert_allclose(action, BEST + (noise - BEST) * (1 - WEIGHT / 5) ** 5, atol=1e-6)


def test_time_runs_over_the_grid_from_zero():
    """velocity = t integrates to the sum of k / n over k = 0 … n - 1, divided by n."""
    action = flow.integrate(lambda a, t: jnp.full(1, t), jnp.zeros(1), num_steps=4)
    np.testing.assert_allclose(action, [(0 + 1 + 2 + 3) / 16])


def test_clip_is_passed_straight_by_qgf_and_stops_its_jacobian_variant():
    action, t = jnp.array([0.5, 0.5]), jnp.float32(0.0)
    velocity = lambda a, t: jnp.array([3.0, 0.1])
    slope = jnp.array([0.7, 0.7])
    linear = lambda a: slope @ a
    np.testing.assert_allclose(guidance.one_step(velocity, linear)(action, t)[1], [0.7, 0.7])
    np.testing.assert_allclose(
        guidance.one_step_jacobian(velocity, linear)(action, t)[1], [0.0, 0.7]
    )


def test_jacobian_rule_equals_the_explicit_jacobian():
    key = jax.random.key(0)
    weights = jax.random.normal(key, (3, 3)) * 0.3
    velocity = lambda a, t: jnp.tanh(weights @ a + t)
    critic = lambda a: jnp.sin(a).sum()
    action, t = jnp.array([0.1, -0.2, 0.05]), jnp.float32(0.3)
    v, ours = guidance.one_step_jacobian(velocity, critic)(action, t)
    np.testing.assert_allclose(v, velocity(action, t), rtol=1e-6)
    end = lambda a: flow.endpoint(a, t, velocity(a, t))
    explicit = jax.jacobian(end)(action).T @ jax.grad(critic)(end(action))
    np.testing.assert_allclose(ours, explicit, rtol=1e-5)
    assert not np.allclose(
        explicit, jax.grad(critic)(end(action)), rtol=0.05
    )  # it does matter here


@pytest.mark.parametrize("rule", list(guidance.RULES))
def test_guidance_of_a_row_does_not_depend_on_the_others(rule):
    """Batches of 1, 5 and 64, and a weight per row."""
    noise = np.random.default_rng(1).normal(size=(64, 2)).astype(np.float32)
    weights = np.linspace(0, 5, 64, dtype=np.float32)

    def act(x, w):
        field = guidance.guide(lambda a, t: jnp.sin(a) * t, q, weight=w, rule=rule)
        return flow.integrate(field, x, num_steps=3)

    batch = jax.vmap(act)
    full = batch(noise, weights)
    for size in (1, 5):
        np.testing.assert_allclose(batch(noise[:size], weights[:size]), full[:size], atol=1e-6)


def test_unguided_rule_never_calls_the_critic():
    def forbidden(action):
        raise AssertionError("the critic was called")

    field = guidance.guide(to_data, forbidden, weight=1.0, rule="unguided")
    assert flow.integrate(field, jnp.zeros(2), num_steps=2).shape == (2,)


@pytest.mark.parametrize(("grid", "expected"), [(0, None), (4, {0.0, 0.25, 0.5, 0.75, 1.0})])
def test_times_to_train_at(grid, expected):
    t = np.asarray(flow.sample_time(jax.random.key(0), (2000,), grid=grid))
    if expected is None:
        assert t.min() >= 0.0 and t.max() < 1.0 and abs(t.mean() - 0.5) < 0.03
    else:
        assert set(t.tolist()) == expected
        assert abs((t == 1.0).mean() - 0.2) < 0.04
