"""Real-time chunking against its published formula, and what it keeps of the chunk before."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qgf_jax
from qgf_guide import flow, guidance
from qgf_guide.inpainting import Overlap
from qgf_jax.methods.parts import Part

D = 6
MATRIX = 0.4 * np.random.default_rng(3).normal(size=(D, D))
ACTION, Y = np.random.default_rng(4).normal(size=(2, D))
W = np.array([1, 1, 0.6, 0.6, 0, 0])
BETA = 5.0
OVERLAP = Overlap(*(jnp.asarray(x, jnp.float32) for x in (Y, W, BETA)))


def velocity(a, t):
    return jnp.tanh(jnp.asarray(MATRIX, jnp.float32) @ a + t)


def q(a):
    return jnp.sin(a).sum()


@pytest.mark.parametrize(
    ("chunk", "execute", "delay"), [(8, 3, 2), (8, 4, 4), (5, 1, 0), (5, 5, 0)]
)
def test_weights_are_one_then_fall_to_zero_where_the_chunk_before_ends(chunk, execute, delay):
    expected = []
    for i in range(chunk):
        c = (chunk - execute - i) / (chunk - execute - delay + 1)
        soft = c * (math.e**c - 1) / (math.e - 1)
        expected.append(1.0 if i < delay else soft if i < chunk - execute else 0.0)
    found = Overlap.soft_weights(chunk, execute, delay)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (np.diff(found) <= 0).all() and not found[chunk - execute :].any()


def test_strength_is_bounded_at_both_ends_and_two_in_the_middle():
    times = jnp.array([0.0, 0.1, 0.5, 0.75, 1.0])
    found = OVERLAP._replace(most=8.0).strength(times)
    np.testing.assert_allclose(found, [8, 8, 2, (0.25 / 0.75) / (0.0625 / 0.625), 8], rtol=1e-6)


def by_hand(t, weight, rule):
    """v + w · direction + min(β, (1 - t) / (t r²)) Jᵀ W (y - a'), in float64."""
    v = np.tanh(MATRIX @ ACTION + t)
    end = ACTION + (1 - t) * v
    jacobian = np.eye(D) + (1 - t) * (1 - v**2)[:, None] * MATRIX
    slope = np.cos(np.clip(end, -1, 1))
    slope = {
        "unguided": 0 * slope,
        "one_step": slope,
        "one_step_jacobian": jacobian.T @ np.where(np.abs(end) < 1, slope, 0),
    }[rule]
    r2 = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
    factor = min(BETA, (1 - t) / t / r2) if t else BETA
    return v + weight * slope + factor * jacobian.T @ (W * (Y - end))


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("rule", ["unguided", "one_step", "one_step_jacobian"])
@pytest.mark.parametrize("weight", [0.0, 0.3, -2.0])
def test_the_published_formula_beside_the_slope_of_q(rule, weight, separate):
    """`separate`: with units, which keep Q's backward pass apart."""
    units = (lambda direction, t: direction) if separate else None
    make = functools.partial(guidance.guide, velocity, q, rule=rule, precondition=units)
    field = jax.jit(lambda a, t, w: make(weight=w, overlap=OVERLAP)(a, t))
    assert np.abs(ACTION).max() > 1  # some coordinate is outside the box
    for t in (0.0, 0.1, 0.3, 0.5, 0.9):
        found = field(jnp.float32(ACTION), jnp.float32(t), jnp.float32(weight))
        np.testing.assert_allclose(found, by_hand(t, weight, rule), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", ["one_step", "one_step_jacobian"])
def test_safeguards_hold_q_back_and_not_the_chunk_before(rule):
    make = functools.partial(guidance.guide, velocity, q, weight=0.3, rule=rule, overlap=OVERLAP)
    at = lambda t, **how: make(**how)(jnp.float32(ACTION), jnp.float32(t))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    slope = (by_hand(0.3, 1.0, rule) - by_hand(0.3, 0.0, rule)).astype(np.float32)
    close(at(0.3, gate=lambda end: jnp.float32(0.25)), by_hand(0.3, 0.3 * 0.25, rule))
    most = np.linalg.norm(slope) / 4
    close(at(0.3, slope_clip=most), by_hand(0.3, 0.3 / 4, rule))
    close(at(0.0, skip_first=True), by_hand(0.0, 0.0, "unguided"))
    close(at(0.3, skip_first=True), by_hand(0.3, 0.3, rule))
    v = np.tanh(MATRIX @ ACTION + 0.3)
    in_units = 0.3 * np.linalg.norm(v) / np.linalg.norm(slope)
    close(at(0.3, units="velocity"), by_hand(0.3, in_units, rule))


def test_the_formula_holds_at_an_endpoint_that_takes_no_velocity_and_a_constant_critic():
    t = jnp.float32(0.3)
    for critic, end in ((q, lambda a, t, v, **_: 0 * a), (lambda a: 1.0, flow.endpoint)):
        field = guidance.guide(
            velocity, critic, weight=0.7, rule="one_step_jacobian", endpoint=end, overlap=OVERLAP
        )
        found = field(jnp.float32(ACTION), t)
        np.testing.assert_allclose(found, by_hand(0.3, 0.0, "unguided"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "rule",
    sorted(
        k
        for k, rule in Part.all("rule").items()
        if not rule.needs & {"noisy_q", "slope", "posterior"}
    ),
)
@pytest.mark.parametrize("nothing", [{"weight": 0 * OVERLAP.weight}, {"most": 0.0}])
def test_without_overlap_or_strength_not_a_bit_changes(rule, nothing):
    for weight in (0.7, 0.0):
        plain, found = (
            guidance.guide(velocity, q, weight=weight, rule=rule, overlap=overlap)
            for overlap in (None, OVERLAP._replace(**nothing))
        )
        for t in jnp.float32([0.0, 0.3, 0.9]):
            args = jnp.float32(ACTION), t
            np.testing.assert_array_equal(found(*args), plain(*args))


def test_q_and_the_overlap_share_a_backward_pass_where_the_rule_keeps_the_jacobian():
    def products(overlap, units=None, rule="one_step_jacobian"):
        field = guidance.guide(
            velocity, q, weight=0.7, rule=rule, overlap=overlap, precondition=units
        )
        traced = jax.jit(field).lower(jnp.float32(ACTION), jnp.float32(0.3))
        return traced.compile().as_text().count(" dot(")

    assert products(None) == products(OVERLAP) == 2  # forth and back
    assert products(OVERLAP, lambda direction, t: 2 * direction) == 3
    assert products(None, rule="one_step") + 1 == products(OVERLAP, rule="one_step") == 2


CHUNK, DELAY = 6, 2
COVARIANCE = 0.25 * 0.9 ** np.abs(np.subtract.outer(np.arange(CHUNK), np.arange(CHUNK)))
VALUES, VECTORS = map(np.float32, np.linalg.eigh(COVARIANCE))
MEAN = np.linspace(-0.3, 0.3, CHUNK).astype(np.float32)


def gaussian(a, t):
    """The exact field from N(0, I) to N(MEAN, COVARIANCE)."""
    shrunk = t * VALUES / ((1 - t) ** 2 + t**2 * VALUES)
    end = MEAN + VECTORS @ (shrunk * (VECTORS.T @ (a - t * MEAN)))
    return (end - a) / (1 - t)


@pytest.mark.parametrize("execute", [CHUNK - DELAY, 2])
def test_the_prefix_is_kept_and_the_rest_goes_on_from_it(execute):
    """Chunks are slow walks, and the one before lies a standard deviation above the mean."""
    previous = np.zeros((CHUNK, 1), np.float32)
    previous[execute:, 0] = MEAN[: CHUNK - execute] + 0.5
    noise = jax.random.normal(jax.random.key(0), (300, CHUNK))

    def ends(most):
        overlap = qgf_jax.overlap(previous, execute=execute, delay=DELAY, most=most)
        field = guidance.guide(gaussian, q, weight=0.0, rule="unguided", overlap=overlap)
        act = lambda x: flow.integrate(field, x, num_steps=20)
        return np.asarray(jax.vmap(act)(noise))

    kept = previous[execute : execute + DELAY, 0]
    of, known = COVARIANCE[DELAY:, :DELAY], COVARIANCE[:DELAY, :DELAY]
    conditional = MEAN[DELAY:] + of @ np.linalg.solve(known, kept - MEAN[:DELAY])
    root = lambda x: np.sqrt(np.mean(x**2))
    misses, gaps = zip(
        *(
            (root(found[:, :DELAY] - kept), root(found[:, DELAY:].mean(axis=0) - conditional))
            for found in map(ends, (0.0, 5.0, 20.0))
        ),
        strict=True,
    )
    assert misses[2] < 0.01 < misses[1] < 0.15 < 0.6 < misses[0]  # of a standard deviation of 0.5
    assert gaps[2] < gaps[1] < 0.45 * gaps[0]


@pytest.mark.parametrize(
    ("shape", "options", "hint"),
    [
        ((4,), {"execute": 1}, r"shape \(4,\): give one chunk"),
        ((4, 1), {"execute": 0}, "execute is 0; it must be a whole number from 1"),
        ((4, 1), {"execute": 2, "delay": -1}, "delay is -1"),
        ((4, 1), {"execute": 2, "most": math.inf}, "most is inf"),
        ((4, 1), {"execute": 5}, "chunks of 4 actions: execute at most 4"),
        ((4, 1), {"execute": 1, "delay": 2}, "would not be there yet"),
    ],
)
def test_an_overlap_that_cannot_be_is_named(shape, options, hint):
    with pytest.raises(qgf_jax.UserError, match=hint):
        qgf_jax.overlap(np.zeros(shape, np.float32), **options)
