"""What a guided flow may be told beside its rule: units of the velocity, and safeguards, by hand."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny

from qgf_guide import flow, guidance, norms
from qgf_jax import config as configs
from qgf_jax.config import RunConfig
from qgf_jax.errors import UserError
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.types import Obs, Spec

M = np.array([[0.4, -0.3], [0.2, 0.5]], np.float32)
SHIFT, BEST = np.array([0.3, -0.1], np.float32), np.array([0.9, 0.4], np.float32)
A, T = np.array([0.2, -0.5], np.float32), np.float32(0.25)
AT_A = M @ A + SHIFT  # the velocity there
FREE = functools.partial(flow.endpoint, clip=False)


def linear(a, t):
    return M @ a + SHIFT


def q(a):
    return -0.5 * ((a - BEST) ** 2).sum()


def still(a, t):
    return jnp.zeros_like(a)


SLOPE = np.array([3.0, 4.0], np.float32)  # of length 5


def steep(a):
    return SLOPE @ a


def at(field, action=A, t=T):
    return np.asarray(field(jnp.asarray(action), jnp.float32(t)))


@pytest.mark.parametrize("rule", ["one_step", "one_step_jacobian"])
@pytest.mark.parametrize("scale", [1.0, -1.0, 1e-30, 1e30])
def test_a_weight_in_units_of_the_velocity_is_a_part_of_its_length(rule, scale):
    """v + w |v| / |g| g, for a quadratic of any scale, and g through J^T or not."""
    jacobian = np.eye(2) + (1 - T) * M
    gradient = BEST - (A + (1 - T) * AT_A)
    if rule == "one_step_jacobian":
        gradient = jacobian.T @ gradient
    found = at(
        guidance.guide(linear, lambda a: scale * q(a), weight=0.3, rule=rule, units="velocity")
    )
    part = 0.3 * np.linalg.norm(AT_A) * np.sign(scale) * gradient / np.linalg.norm(gradient)
    np.testing.assert_allclose(found, AT_A + part, rtol=1e-5)


def test_units_of_the_velocity_leave_a_flat_critic_and_a_still_flow_alone():
    for velocity, critic in ((linear, lambda a: 0.0 * a.sum()), (still, q)):
        found = at(guidance.guide(velocity, critic, weight=0.3, units="velocity"))
        np.testing.assert_array_equal(found, velocity(A, T))


def test_the_clip_is_passed_straight_by_every_slope_that_goes_through_it():
    """The critic looks inside the box; the Jacobian is that of the straight step, as if unclipped."""
    action = np.array([1.5, 0.1], np.float32)
    v = M @ action + SHIFT
    free = action + (1 - T) * v
    assert free[0] > 1 > abs(free[1])
    gradient, jacobian = BEST - np.clip(free, -1, 1), np.eye(2) + (1 - T) * M
    pulled, masked = jacobian.T @ gradient, jacobian.T @ (gradient * [0, 1])

    def direction(clip, rule, **options):
        field = guidance.guide(linear, q, weight=1.0, rule=rule, clip=clip, **options)
        return at(field, action) - v

    for clip, expected in (("straight_through", pulled), ("box", masked)):
        np.testing.assert_allclose(direction(clip, "one_step_jacobian"), expected, rtol=1e-5)
        mixed = direction(clip, "regularized", epsilon=0.5)
        np.testing.assert_allclose(mixed, gradient + 0.5 * expected, rtol=1e-5)
        averaged = direction(clip, "smooth", sigma=0.0)
        np.testing.assert_allclose(averaged, expected, rtol=1e-5)
    wide = functools.partial(flow.endpoint, low=-9.0, high=1.2)
    beside = direction("straight_through", "one_step_jacobian", endpoint=wide)
    gradient = BEST - np.minimum(free, 1.2)
    np.testing.assert_allclose(beside, jacobian.T @ gradient, rtol=1e-5)


def test_the_first_step_alone_is_skipped():
    """With slope c everywhere, x_1 = x_0 + w c (n - 1) / n."""
    field = guidance.guide(still, steep, weight=0.5, skip_first=True)
    for unroll in (False, True):
        end = flow.integrate(field, jnp.zeros(2), num_steps=4, unroll=unroll)
        np.testing.assert_allclose(end, 0.5 * SLOPE * 3 / 4, rtol=1e-6)
    np.testing.assert_array_equal(at(field, t=0.0), [0, 0])


def test_a_slope_is_shortened_before_its_units_and_its_weight():
    clipped = functools.partial(guidance.guide, still, steep, weight=3.0)
    np.testing.assert_allclose(at(clipped(slope_clip=2.0)), 3 * 2 * SLOPE / 5, rtol=1e-6)
    np.testing.assert_array_equal(at(clipped(slope_clip=6.0)), 3 * SLOPE)
    tenfold = clipped(slope_clip=2.0, precondition=lambda g, t: 10 * g)
    np.testing.assert_allclose(at(tenfold), 30 * 2 * SLOPE / 5, rtol=1e-6)
    calibration = {"q_std": jnp.float32(0.1)}
    spread = clipped(slope_clip=2.0, units="spread", calibration=calibration)
    np.testing.assert_allclose(at(spread), 30 * 2 * SLOPE / 5, rtol=1e-6)
    flat = guidance.guide(still, lambda a: 0.0 * a.sum(), weight=3.0, slope_clip=2.0)
    np.testing.assert_array_equal(at(flat), [0, 0])


def test_lengths_at_the_ends_of_float32():
    for scale in (0.0, 1e-30, 1.0, 1e30):
        x = jnp.float32(scale) * jnp.array([3.0, -4.0])
        np.testing.assert_allclose(norms.length(x), 5 * scale, rtol=1e-6)
        np.testing.assert_allclose(norms.shorten(x, 2.0), x * min(1, 2 / max(5 * scale, 1e-9)))


def test_members_that_disagree_at_the_endpoint_close_the_gate():
    """Members ± slope a: their standard deviation is |slope a|, taken where the critic looks."""
    gate = guidance.disagreement_gate(lambda a: jnp.stack([steep(a), -steep(a)]), 0.7)
    plain, gated = (
        at(guidance.guide(linear, q, weight=2.0, endpoint=FREE, gate=g)) - AT_A
        for g in (None, gate)
    )
    end = A + (1 - T) * AT_A
    np.testing.assert_allclose(gated, np.exp(-0.7 * abs(SLOPE @ end)) * plain, rtol=1e-5)
    agreed = guidance.disagreement_gate(lambda a: jnp.stack([steep(a)] * 3), 0.7)
    found = at(guidance.guide(linear, q, weight=2.0, gate=agreed)) - AT_A
    np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_displacement_is_kept_in_a_ball_about_the_references_own_flow():
    """By hand, step by step; at a radius that binds and at one that does not."""
    n, noise = 5, np.array([0.6, -0.8], np.float32)
    field = guidance.guide(linear, q, weight=4.0, endpoint=FREE)
    reference = noise
    for _ in range(n):
        reference = reference + (M @ reference + SHIFT) / n
    for radius in (0.3, 9.0):
        ahead = behind = noise.astype(np.float64)
        for k in range(n):
            end = ahead + (1 - k / n) * (M @ ahead + SHIFT)
            ahead = ahead + (M @ ahead + SHIFT + 4.0 * (BEST - end)) / n
            behind = behind + (M @ behind + SHIFT) / n
            moved = ahead - behind
            ahead = behind + moved * min(1, radius / np.linalg.norm(moved))
        for unroll in (False, True):
            found = flow.integrate_within(
                field, linear, jnp.asarray(noise), radius=radius, num_steps=n, unroll=unroll
            )
            np.testing.assert_allclose(found, ahead, rtol=1e-5)
        assert (np.linalg.norm(found - reference) > 0.99 * radius) == (radius < 1)
    free = flow.integrate(field, jnp.asarray(noise), num_steps=n)
    np.testing.assert_allclose(found, free, rtol=1e-5)


def test_displacement_of_a_constant_push_is_its_sum_up_to_the_radius():
    push = guidance.guide(still, steep, weight=0.1)
    for radius, moved in ((0.2, 0.2 * SLOPE / 5), (1.0, 0.1 * SLOPE)):
        end = flow.integrate_within(push, still, jnp.ones(2), radius=radius, num_steps=3)
        np.testing.assert_allclose(end, 1 + moved, rtol=1e-5)


@pytest.mark.parametrize("rule", [rule for rule in guidance.RULES if rule != "unguided"])
def test_safeguards_are_of_every_rule(rule):
    asked = {"noise_aware": lambda a, t: q(a), "learned_slope": lambda a, t: jax.grad(q)(a)}
    asked["classifier_noise_aware"] = asked["noise_aware"]
    asked["soft_value"] = lambda a, t, noise, steps: q(a)
    field = functools.partial(guidance.guide, linear, asked.get(rule, q), weight=2.0, rule=rule)
    v, plain = AT_A, at(field()) - AT_A
    np.testing.assert_allclose(at(field(gate=lambda end: 0.25)) - v, 0.25 * plain, rtol=1e-4)
    short = at(field(slope_clip=0.1)) - v
    np.testing.assert_allclose(short, 0.2 * plain / np.linalg.norm(plain), rtol=1e-4)
    velocity = at(field(units="velocity")) - v
    length = 2 * np.linalg.norm(v) / np.linalg.norm(plain)
    np.testing.assert_allclose(velocity, length * plain, rtol=1e-4)
    np.testing.assert_allclose(at(field(skip_first=True), t=0.0), v, rtol=1e-6)


def test_wrong_safeguards_are_explained():
    for wrong in (0.0, -1.0, jnp.ones(2)):
        with pytest.raises(UserError, match="slope_clip is .*: give one number above 0"):
            guidance.guide(linear, q, weight=1.0, slope_clip=wrong)
    with pytest.raises(UserError, match="units=covariance has constants: give calibration="):
        guidance.guide(linear, q, weight=1.0, units="covariance")
    with pytest.raises(UserError, match="did you mean 'velocity'"):
        guidance.guide(linear, q, weight=1.0, units="velocty")
    one = guidance.disagreement_gate(q, 1.0)
    with pytest.raises(UserError, match=r"members returned shape \(\): .* \[E\]"):
        guidance.guide(linear, q, weight=1.0, gate=one)(A, T)
    lone = Builder(tiny(**{"networks.ensemble": 1}), SPEC)
    with pytest.raises(UserError, match="gate .* networks.ensemble is 1"):
        lone.sample("qgf", options=(("gate", 1.0),))


SPEC = Spec(state=(3,), action=2, chunk=2)
OBS, KEY, WEIGHT = Obs(jnp.array([0.3, -0.2, 0.9])), jax.random.key(7), 0.4


def networks(**changes):
    """A builder of tiny networks that take one step, their parameters, and the noise of `KEY`."""
    builder = Builder(tiny(**{"sampler.num_steps": 1, **changes}), SPEC)
    params = jax.jit(builder.learner().init)(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    return builder, algorithms.acting_params(params, {}), jax.random.normal(KEY, (4,))


def acted(builder, params, name, **options):
    sample = builder.sample(name, options=tuple(sorted(options.items())))
    return np.asarray(sample(params, OBS, KEY, jnp.float32(WEIGHT)))


@pytest.mark.whole(but_every=2)
@pytest.mark.parametrize("scale", ["value", "logit"])
def test_sampler_hands_each_safeguard_on(scale):
    """One step of QGF: noise + v + w g, and what each option makes of w g."""
    builder, params, noise = networks(**{"networks.critic_output": "sigmoid"})
    nets, t = builder.networks(), jnp.float32(0)
    act = functools.partial(acted, builder, params, "qgf", scale=scale)
    v = nets.velocity(params["policy"], OBS)(noise, t)
    end = flow.endpoint(noise, t, v)
    critic = (nets.q_of if scale == "value" else nets.q_logit_of)(params["critic"], OBS)
    g = np.asarray(jax.grad(critic)(end))
    clipped = lambda push: np.clip(noise + v + push, -1, 1)
    members = nets.apply_ensemble if scale == "value" else nets.ensemble_logits
    std = float(np.std(members(params["critic"], OBS, end)))
    assert std > 1e-3
    shut = np.exp(-30 * std)
    length = np.linalg.norm(g)
    assert np.abs(clipped(WEIGHT * g) - clipped(WEIGHT * g * shut)).max() > 2e-4
    close = functools.partial(np.testing.assert_allclose, atol=2e-6)
    close(act(), clipped(WEIGHT * g))
    close(act(gate=30.0), clipped(WEIGHT * g * shut))
    close(act(slope_clip=length / 2), clipped(WEIGHT * g / 2), atol=1e-5)
    close(act(units="velocity"), clipped(WEIGHT * np.linalg.norm(v) / length * g), atol=1e-5)
    close(act(trust_radius=WEIGHT * length / 4), clipped(WEIGHT * g / 4), atol=1e-5)
    close(act(skip_first=True), clipped(0.0))


def test_qpilots_u_is_what_its_row_says():
    """Three steps by hand: none at t = 0, then J^T of the straight step, in lengths of the velocity."""
    builder, params, action = networks(**{"sampler.num_steps": 3})
    nets = builder.networks()
    velocity, slope = (
        nets.velocity(params["policy"], OBS),
        jax.grad(nets.q_of(params["critic"], OBS)),
    )
    for k in range(3):
        t = jnp.float32(k / 3)
        unclipped = lambda a, t=t: a + (1 - t) * velocity(a, t)
        end, pull_back = jax.vjp(unclipped, action)
        (g,) = pull_back(slope(jnp.clip(end, -1, 1)))
        v = velocity(action, t)
        push = WEIGHT * jnp.linalg.norm(v) / jnp.linalg.norm(g) * g if k else 0.0
        action = action + (v + push) / 3
    found = acted(builder, params, "qpilots_u")
    np.testing.assert_allclose(found, jnp.clip(action, -1, 1), atol=1e-5)


def test_every_guided_row_has_the_safeguards_and_older_runs_had_none():
    on = {"slope_clip", "gate", "trust_radius", "skip_first"}
    for name, row in algorithms.METHODS.items():
        fixed = row.options.keys()
        if row.sampler == "guided":
            assert set(row.free_options) & on == (on - fixed if row.weighted else set()), name
    through = {n for n, row in algorithms.METHODS.items() if "straight_through" in row.free_options}
    assert {"qgf_jacobian", "bptt", "qgf_smooth", "qgf_regularized"} <= through
    assert not through & {"qgf", "qgf_ortho", "qfql", "qpilots_u", "reference"}
    new = tiny("qgf_jacobian")
    old = json.loads(json.dumps(new))
    for option in (*on, "straight_through"):
        old["sampler"].pop(option)
    configs.check(old)
    assert RunConfig(old).changes_to(new) == []
