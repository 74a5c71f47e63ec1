"""Guided integration against closed forms: a wrong sign, time or rule changes a number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qgf_guide import flow, guidance
from qgf_guide.errors import UserError

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

    timed = {"noise_aware": lambda a, t: q(a) * (1 + t), "learned_slope": lambda a, t: a * a * t}
    timed["classifier_noise_aware"] = timed["noise_aware"]
    timed["soft_value"] = lambda a, t, noise, steps: q(a)
    critic = timed.get(rule, q)

    def act(x, w):
        field = guidance.guide(lambda a, t: jnp.sin(a) * t, critic, weight=w, rule=rule)
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


STEPS = 5
MATRIX = 0.4 * np.random.default_rng(3).normal(size=(3, 3)).astype(np.float32)


def bent(action, t):
    return jnp.tanh(MATRIX @ action + t)


def wavy(action):
    return jnp.sin(2.0 * action).sum()


def rest_of(action, k):
    """The end of the flow from step k on, written out."""
    for i in range(k, STEPS):
        action = action + bent(action, i / STEPS) / STEPS
    return jnp.clip(action, -1.0, 1.0)


ACTION = jnp.array([0.1, -0.2, 0.05])
REST = flow.flow_endpoint(bent, num_steps=STEPS)


@pytest.mark.parametrize("k", range(STEPS))
def test_bptt_is_the_slope_of_the_whole_remaining_flow(k):
    v, ours = guidance.one_step_jacobian(bent, wavy, REST)(ACTION, np.float32(k / STEPS))
    np.testing.assert_allclose(v, bent(ACTION, k / STEPS), rtol=1e-6)
    end = lambda a: float(wavy(rest_of(a, k)))
    step = 1e-2
    differences = [
        (end(ACTION + step * e) - end(ACTION - step * e)) / (2 * step) for e in np.eye(3)
    ]
    np.testing.assert_allclose(ours, differences, rtol=2e-3, atol=1e-4)
    _, chained = guidance.one_step(bent, wavy, REST)(ACTION, np.float32(k / STEPS))
    np.testing.assert_allclose(chained, jax.grad(wavy)(rest_of(ACTION, k)), rtol=1e-5)


def test_bptt_equals_the_jacobian_rule_at_the_last_step():
    t = np.float32((STEPS - 1) / STEPS)
    _, through = guidance.one_step_jacobian(bent, wavy, REST)(ACTION, t)
    _, one = guidance.one_step_jacobian(bent, wavy)(ACTION, t)
    np.testing.assert_allclose(through, one, rtol=1e-5)
    _, early = guidance.one_step_jacobian(bent, wavy)(ACTION, np.float32(0))
    assert not np.allclose(early, guidance.one_step_jacobian(bent, wavy, REST)(ACTION, 0.0)[1])


def test_unrolled_and_scanned_integration_agree_and_the_rest_needs_unrolling():
    field = guidance.guide(bent, wavy, weight=0.3)
    scanned = flow.integrate(field, ACTION, num_steps=STEPS)
    unrolled = flow.integrate(field, ACTION, num_steps=STEPS, unroll=True)
    np.testing.assert_allclose(unrolled, scanned, rtol=1e-6)
    field = guidance.guide(bent, wavy, weight=0.3, endpoint=REST)
    assert flow.integrate(field, ACTION, num_steps=STEPS, unroll=True).shape == (3,)
    with pytest.raises(TypeError, match="unroll"):
        flow.integrate(field, ACTION, num_steps=STEPS)


def jacobian_at(action, t):
    return np.asarray(jax.jacobian(lambda a: a + (1 - t) * bent(a, t))(action))


def test_ortho_turns_by_the_orthogonal_factor_alone():
    t = jnp.float32(0.3)
    slope = np.asarray(jax.grad(wavy)(flow.endpoint(ACTION, t, bent(ACTION, t))))
    u, _, vt = np.linalg.svd(jacobian_at(ACTION, t))
    _, ours = guidance.ortho(bent, wavy)(ACTION, t)
    np.testing.assert_allclose(ours, (u @ vt).T @ slope, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(ours), np.linalg.norm(slope), rtol=1e-5)


def test_regularized_adds_a_part_of_the_jacobians_slope():
    t = jnp.float32(0.3)
    _, plain = guidance.one_step(bent, wavy)(ACTION, t)
    _, pulled = guidance.one_step_jacobian(bent, wavy)(ACTION, t)
    _, ours = guidance.regularized(bent, wavy, epsilon=0.1)(ACTION, t)
    np.testing.assert_allclose(ours, plain + 0.1 * pulled, rtol=1e-5)


def test_smooth_averages_jacobians_around_the_action():
    t = jnp.float32(0.3)
    linear = lambda a, t: MATRIX @ a
    _, pulled = guidance.one_step_jacobian(linear, wavy)(ACTION, t)
    _, ours = guidance.smooth(linear, wavy, sigma=0.02)(ACTION, t)
    np.testing.assert_allclose(ours, pulled, rtol=1e-5)  # one Jacobian everywhere
    slope = np.asarray(jax.grad(wavy)(flow.endpoint(ACTION, t, bent(ACTION, t))))
    noise = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    mean = jax.vmap(lambda e: jax.jacobian(lambda a: a + 0.7 * bent(a, t))(ACTION + 0.1 * e))(noise)
    _, many = guidance.smooth(bent, wavy, samples=1000, sigma=0.1)(ACTION, t)
    np.testing.assert_allclose(many, np.asarray(mean).mean(axis=0).T @ slope, rtol=0.02, atol=5e-3)
    _, one = guidance.smooth(bent, wavy, samples=1, sigma=1e-6)(ACTION, t)
    np.testing.assert_allclose(one, jacobian_at(ACTION, t).T @ slope, rtol=1e-3)


def test_smooth_perturbs_in_opposite_pairs():
    """The Jacobian of a square is linear, so over a pair its mean is that at the action."""
    square = lambda a, t: a**2
    t = jnp.float32(0.3)
    _, exact = guidance.one_step_jacobian(square, wavy)(ACTION, t)
    _, pair = guidance.smooth(square, wavy, samples=2, sigma=0.2)(ACTION, t)
    _, one = guidance.smooth(square, wavy, samples=1, sigma=0.2)(ACTION, t)
    np.testing.assert_allclose(pair, exact, rtol=1e-5)
    assert np.abs(one - exact).max() > 0.02


def test_noise_aware_rule_asks_the_critic_at_the_noisy_action_and_its_time():
    critic = lambda a, t: t * a.sum() - 0.5 * (a**2).sum()
    _, ours = guidance.noise_aware(bent, critic)(ACTION, jnp.float32(0.3))
    np.testing.assert_allclose(ours, 0.3 - ACTION, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "start", "middle", "end"),
    [("constant", 1.0, 1.0, 1.0), ("linear", 1.0, 0.5, 0.0), ("ratio", 10.0, 1.0, 0.0)],
)
def test_schedules_at_their_ends(schedule, start, middle, end):
    values = [guidance.SCHEDULES[schedule](jnp.float32(t), 10.0) for t in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(values, [start, middle, end], atol=1e-6)
    assert float(guidance.SCHEDULES["ratio"](jnp.float32(0.2), 10.0)) == pytest.approx(4.0)
    still = lambda a, t: jnp.zeros(2)
    slope = jnp.array([0.2, -0.1])
    field = guidance.guide(still, lambda a: slope @ a, weight=2.0, schedule=schedule, cap=10.0)
    for t, value in ((0.0, start), (0.5, middle), (1.0, end)):
        np.testing.assert_allclose(
            field(jnp.zeros(2), jnp.float32(t)), 2 * value * slope, rtol=1e-6
        )


def test_precondition_changes_the_slope_before_the_weight():
    field = guidance.guide(
        lambda a, t: jnp.zeros(2), lambda a: a.sum(), weight=3.0,
        precondition=lambda slope, t: slope * jnp.array([1.0, 0.5]) * t,
    )  # fmt: skip
    np.testing.assert_allclose(field(jnp.zeros(2), jnp.float32(0.5)), [1.5, 0.75])


def test_unknown_rules_and_schedules_are_named():
    for wrong in ({"rule": "one_stp"}, {"schedule": "linaer"}):
        with pytest.raises(UserError, match="did you mean"):
            guidance.guide(bent, wavy, weight=1.0, **wrong)


def in_their_time(velocity, noise, weight, num_steps):
    """QGF where t = 1 is noise, written out: steps of -1 / n, and the clean action is a - t u."""
    action = noise
    for k in range(num_steps):
        t = 1.0 - k / num_steps
        u = velocity(action, t)
        slope = jax.grad(wavy)(jnp.clip(action - t * u, -1.0, 1.0))
        action = action - (u - weight * slope) / num_steps
    return action


def test_a_flow_whose_time_runs_the_other_way_is_turned_round():
    theirs = lambda a, t: jnp.sin(MATRIX @ a + 2.0 * t) - 0.3 * a
    noise = np.random.default_rng(4).normal(size=(8, 3)).astype(np.float32)
    field = guidance.guide(lambda a, t: -theirs(a, 1 - t), wavy, weight=0.7)
    ours = jax.vmap(functools.partial(flow.integrate, field, num_steps=STEPS))(noise)
    expected = [in_their_time(theirs, x, 0.7, STEPS) for x in noise]
    np.testing.assert_allclose(ours, expected, atol=2e-6)
    plain = guidance.guide(theirs, wavy, weight=0.7)
    assert not np.allclose(flow.integrate(plain, noise[0], num_steps=STEPS), expected[0], atol=0.1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1.0, -1.0, 0.5]),
        ({"clip": False}, [2.5, -3.0, 0.5]),
        ({"low": -2.0, "high": 2.0}, [2.0, -2.0, 0.5]),
        ({"low": np.array([-9.0, -2.0, 0.6]), "high": np.array([9.0, 0.0, 0.7])}, [2.5, -2.0, 0.6]),
    ],
)
@pytest.mark.parametrize("kind", ["straight", "rest"])
def test_critic_is_asked_inside_the_box_that_was_asked_for(kind, options, expected):
    """One step from 0: where the critic is asked, its slope says."""
    velocity = lambda a, t: jnp.array([2.5, -3.0, 0.5])
    end = flow.endpoint
    if kind == "rest":
        box = {k: v for k, v in options.items() if k != "clip"}
        end = flow.flow_endpoint(velocity, num_steps=1, **box)
        options = {k: v for k, v in options.items() if k == "clip"}
    field = guidance.guide(
        velocity, lambda a: (a**2).sum(), weight=0.5, endpoint=functools.partial(end, **options)
    )
    moved = flow.integrate(field, jnp.zeros(3), num_steps=1, unroll=True)
    np.testing.assert_allclose(moved, np.array([2.5, -3.0, 0.5]) + expected, rtol=1e-6)


@pytest.mark.parametrize("rule", list(guidance.RULES))
def test_a_batch_is_refused_in_one_line_by_every_rule(rule):
    timed = {"noise_aware": lambda a, t: wavy(a), "learned_slope": lambda a, t: a * t}
    timed["classifier_noise_aware"] = timed["noise_aware"]
    timed["soft_value"] = lambda a, t, noise, steps: wavy(a)
    critic = timed.get(rule, wavy)
    field = guidance.guide(lambda a, t: -a, critic, weight=1.0, rule=rule)
    for shape in ((5, 3), (3, 3), ()):
        with pytest.raises(UserError, match="vmap") as caught:
            field(jnp.zeros(shape), jnp.float32(0))
        assert "\n" not in str(caught.value)
    assert jax.vmap(field, (0, None))(jnp.zeros((5, 3)), jnp.float32(0)).shape == (5, 3)


@pytest.mark.parametrize("rule", sorted(guidance.RULES.keys() - {"unguided", "learned_slope"}))
def test_a_critic_that_returns_more_than_one_number_is_refused(rule):
    critic = lambda a, *t: jnp.stack([wavy(a)])
    field = guidance.guide(lambda a, t: -a, critic, weight=1.0, rule=rule)
    with pytest.raises(UserError, match=r"q returned shape \(1,\) .*one number"):
        flow.integrate(field, jnp.zeros(3), num_steps=2)


def test_a_slope_that_is_no_direction_is_refused():
    for slope in (lambda a, t: wavy(a), lambda a, t: a[:1]):  # both would be broadcast
        field = guidance.guide(bent, slope, weight=1.0, rule="learned_slope")
        with pytest.raises(UserError, match=r"slope returned shape .*\(3,\)"):
            flow.integrate(field, ACTION, num_steps=2)


def test_velocities_weights_and_steps_of_a_wrong_kind_are_refused():
    wide = lambda a, t: jnp.zeros((3, 1))
    narrow = lambda a, t: a[:1]  # would be broadcast
    for velocity in (wide, narrow):
        field = guidance.guide(velocity, wavy, weight=1.0)
        for one in (velocity, field):
            for unroll in (False, True):
                with pytest.raises(UserError, match=r"velocity returned shape .*\(3,\)"):
                    flow.integrate(one, jnp.zeros(3), num_steps=2, unroll=unroll)
    with pytest.raises(UserError, match="weight has shape .*vmap"):
        guidance.guide(bent, wavy, weight=jnp.ones(3))
    for wrong in (0, -1, 2.5, None, jnp.ones(2)):
        with pytest.raises(UserError, match="whole number from 1"):
            flow.integrate(bent, ACTION, num_steps=wrong)
    with pytest.raises(UserError, match="whole number from 1"):
        flow.flow_endpoint(bent, num_steps=0)
    within = lambda n: flow.integrate_within(bent, bent, ACTION, radius=1.0, num_steps=n)
    with pytest.raises(UserError, match="num_steps is traced.*static_argnames"):
        jax.jit(within)(3)
    steps = lambda n: flow.integrate(bent, ACTION, num_steps=n)
    np.testing.assert_allclose(jax.jit(steps)(3), steps(np.int64(3)), rtol=1e-6)


def test_an_option_that_a_rule_does_not_have_is_named():
    with pytest.raises(UserError, match=r"option of rule smooth 'sampels': did you mean 'samples'"):
        guidance.guide(to_data, q, weight=1.0, rule="smooth", sampels=4)
