"""Batches, conventions of time, masks, and policies that are no flows: each against plain guidance."""

import functools
import importlib
import inspect
import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qgf_guide
from qgf_guide import Diffusion, UserError, guide, integrate, lazy, norms
from qgf_guide.inpainting import Overlap
from qgf_guide.parts import Part

B, H, A = 3, 2, 2
D, STEPS = H * A, 4
rng = np.random.default_rng(0)
MATRIX = (0.5 * rng.normal(size=(D, D))).astype(np.float32)
NOISE = rng.normal(size=(B, H, A)).astype(np.float32)
STATES = rng.normal(size=(B, D)).astype(np.float32)
CALIBRATION = {
    "q_std": np.float32(2.0),
    "values": np.array([0.5, 1.0, 2.0, 3.0], np.float32),
    "vectors": np.linalg.qr(rng.normal(size=(D, D)))[0].astype(np.float32),
}


BACK = {"time": "data_to_noise"}


def flowing(state, action, t):
    return jnp.tanh(MATRIX @ action + state) * (1 + t)


def value(state, action, *t):
    return -jnp.sum(jnp.cos(action - state) * action) + sum(t)


def slope(state, action, t):
    return t * state - action


def both(**options):
    """(guided one by one under `vmap`, guided as a batch that closes over its states), [B, H, A]."""
    asked = slope if options.get("rule") == "learned_slope" else value
    weight = options.pop("weight", 0.7)

    def one(noise, state, weight):
        field = guide(
            functools.partial(flowing, state),
            functools.partial(asked, state),
            weight=weight,
            **options,
        )
        return integrate(field, noise, num_steps=STEPS)

    def whole(function):
        def batch(actions, *t):
            rows = actions.reshape(B, D)
            out = jax.vmap(function, (0, 0, *(None,) * len(t)))(STATES, rows, *t)
            return out if out.ndim == 1 else out.reshape(actions.shape)

        return batch

    with jax.numpy_rank_promotion("allow"):
        alone = jax.vmap(one)(NOISE.reshape(B, D), STATES, jnp.broadcast_to(weight, B))
        field = guide(whole(flowing), whole(asked), weight=weight, batched=True, **options)
        return alone.reshape(B, H, A), integrate(field, NOISE, num_steps=STEPS)


RULES = [name for name, rule in Part.all("rule").items() if "posterior" not in rule.needs]


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_is_guided_as_each_of_its_actions(rule):
    alone, batch = both(rule=rule, clip=None)
    np.testing.assert_allclose(batch, alone, rtol=1e-5, atol=2e-6)
    if rule != "unguided":
        assert np.abs(batch - both(rule="unguided", clip=None)[1]).max() > 0.01


@pytest.mark.parametrize(
    "options",
    [
        {"weight": np.array([0.0, 0.5, 2.0], np.float32)},
        {"slope_clip": 0.3},
        {"units": "velocity"},
        {"units": "covariance", "calibration": CALIBRATION},
        {"units": "posterior", "calibration": CALIBRATION, "clip": "straight_through"},
        {"overlap": Overlap(NOISE[0].ravel(), np.linspace(0, 1, D, dtype=np.float32), 5.0)},
        {
            "overlap": Overlap(NOISE[0].ravel(), np.linspace(0, 1, D, dtype=np.float32), 5.0),
            "rule": "one_step_jacobian",
            "weight": np.array([0.0, 0.5, 2.0], np.float32),
        },
    ],
    ids=lambda x: "-".join(x),
)
def test_options_act_on_each_action_of_a_batch_by_itself(options):
    alone, batch = both(**options)
    np.testing.assert_allclose(batch, alone, atol=2e-6)


def test_a_gate_and_a_map_of_directions_see_the_batch_as_it_is():
    seen = []

    def gate(actions):
        seen.append(actions.shape)
        return jnp.array([0.0, 1.0, 0.5])

    options = {"precondition": lambda g, t: 2 * g.reshape(B, H, A), "batched": True}
    still, climb = lambda a, t: jnp.zeros_like(a), lambda a: a.sum((1, 2))
    field = guide(still, climb, weight=1.0, gate=gate, **options)
    np.testing.assert_allclose(field(NOISE, 0.0)[:, 0, 0], [0.0, 2.0, 1.0])
    assert seen == [(B, H, A)]


def test_members_of_a_batch_disagree_about_each_action_by_itself():
    members = lambda actions: jnp.stack([actions[:, 0, 0], -actions[:, 0, 0]])  # [E, B]
    still, climb = lambda a, t: jnp.zeros_like(a), lambda a: a.sum((1, 2))
    gate = qgf_guide.disagreement_gate(members, 2.0)
    field = guide(still, climb, weight=1.0, clip=None, gate=gate, batched=True)
    np.testing.assert_allclose(
        field(NOISE, 0.0)[:, 1, 1], np.exp(-2 * np.abs(NOISE[:, 0, 0])), rtol=1e-5
    )
    alone = qgf_guide.disagreement_gate(lambda a: a[None] * jnp.ones((2, 1)), 2.0)
    with pytest.raises(UserError, match=r"gate returned shape \(4,\) for one action"):
        guide(lambda a, t: -a, lambda a: a.sum(), weight=1.0, gate=alone)(STATES[0], 0.0)


def test_time_from_data_to_noise_is_the_same_guidance_the_other_way_round():
    """As openpi and LeRobot have it: t = 1 is noise, velocity = noise - data, steps are negative."""
    state = STATES[0]
    ours = functools.partial(flowing, state)
    theirs = lambda a, t: -ours(a, 1.0 - t)
    for rule in ("one_step_jacobian", "noise_aware", "learned_slope"):
        asked = functools.partial(slope if rule == "learned_slope" else value, state)
        ask_theirs = asked if rule == "one_step_jacobian" else lambda a, t, f=asked: f(a, 1.0 - t)
        field = guide(ours, asked, weight=0.7, rule=rule)
        turned = guide(theirs, ask_theirs, weight=0.7, rule=rule, time="data_to_noise")
        action = STATES[1]
        for t in (0.0, 0.3):
            np.testing.assert_allclose(turned(action, 1 - t), -field(action, t), atol=1e-6)
        end = integrate(field, action, num_steps=STEPS)
        np.testing.assert_allclose(
            integrate(turned, action, num_steps=STEPS, time="data_to_noise"), end, atol=1e-6
        )
        x = action
        for k in range(STEPS, 0, -1):  # their loop
            x = x - turned(x, k / STEPS) / STEPS
        np.testing.assert_allclose(x, end, atol=1e-5)
    seen = []
    watched = lambda a, t: seen.append(t) or theirs(a, t)
    early = jnp.float32(0.1)  # of which 1 - (1 - t) is another number
    for rule in ("one_step", "one_step_jacobian", "regularized"):
        field = guide(watched, functools.partial(value, state), weight=0.0, rule=rule, **BACK)
        np.testing.assert_allclose(field(STATES[1], early), theirs(STATES[1], early), rtol=1e-6)
    assert 1 - (1 - early) != early and set(map(float, seen)) == {float(early)}
    with pytest.raises(UserError, match="time is 'openpi': give 'noise_to_data'"):
        guide(theirs, value, weight=1.0, time="openpi")


@pytest.mark.parametrize("units", ["raw", "velocity"])
def test_what_the_mask_leaves_out_is_not_moved_and_does_not_count(units):
    """The first action of the chunk alone: as if there were no second one."""
    still = lambda a, t: jnp.ones_like(a)
    climb = lambda a: (a**2).sum()
    mask = np.repeat(np.arange(H) < 1, A)
    found = guide(still, climb, weight=0.5, units=units, mask=mask)(STATES[0], 0.5)
    first = guide(still, climb, weight=0.5, units=units)(STATES[0][:A], 0.5)
    np.testing.assert_allclose(found, [*first, 1.0, 1.0], rtol=1e-6)
    sums = lambda a: climb(a) * jnp.ones(B)
    chunks = guide(still, sums, weight=0.5, mask=np.arange(H)[:, None] < 1, batched=True)
    assert (chunks(NOISE, 0.5)[:, 1] == 1).all() and (chunks(NOISE, 0.5)[:, 0] != 1).all()
    with pytest.raises(UserError, match=r"mask has shape \(3,\).*\(4,\)"):
        guide(still, climb, weight=1.0, mask=np.ones(3))(STATES[0], 0.5)


def test_without_a_clip_the_critic_is_asked_outside_the_box():
    far = lambda a, t: jnp.full(2, 5.0)
    for clip in (None, "none"):
        field = guide(far, lambda a: (a**2).sum() / 2, weight=1.0, clip=clip)
        np.testing.assert_allclose(field(jnp.zeros(2), 0.0), 10.0)


def test_the_number_of_steps_may_be_traced():
    step = jax.jit(lambda n: integrate(lambda a, t: a + t, jnp.ones(2), num_steps=n))
    for n in (1, 3):
        action = np.ones(2)
        for k in range(n):
            action = action + (action + k / n) / n
        np.testing.assert_allclose(step(n), action, rtol=1e-6)
    assert step._cache_size() == 1


def test_mistakes_with_batches_are_one_line():
    climb = lambda a: a.sum((1, 2))
    batch = functools.partial(guide, lambda a, t: -a, weight=1.0, batched=True)
    with pytest.raises(UserError, match=r"batched=True takes actions \[B, …\], not shape \(4,\)"):
        batch(climb)(STATES[0], 0.0)
    with pytest.raises(UserError, match=r"q returned shape \(\) for 3 actions.*\(3,\)"):
        batch(lambda a: a.sum())(NOISE, 0.0)
    with pytest.raises(UserError, match=r"weight has shape \(3, 1\): give \[B\]"):
        guide(lambda a, t: -a, climb, weight=jnp.ones((3, 1)), batched=True)
    with pytest.raises(UserError, match="soft_value draws for one action"):
        batch(climb, rule="soft_value")


POINT = jnp.array([0.3, -0.2, 0.1])


def straight(a, t):
    return -a


def total(a):
    return a.sum()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"weight": math.nan}, "weight is nan; it must be a finite number"),
        ({"weight": "3"}, "weight is 3; it must be a finite number"),
        ({"cap": -1}, "cap is -1; it must be a finite number above 0"),
        ({"batch": True}, "unknown option of rule one_step 'batch': did you mean 'batched'"),
        ({"rule": None}, "rule is None: give one of"),
        ({"units": None}, "unit is None: give one of"),
        ({"clip": [-1, 1]}, r"clip is \[-1, 1\]: give 'box'"),
        ({"rule": "smooth", "samples": 0}, "option samples of rule smooth is 0; it must be"),
        ({"rule": "smooth", "sigma": math.nan}, "option sigma of rule smooth is nan; it must be"),
        ({"slope_clip": np.float32(-0.1)}, "slope_clip is -0.1"),
        ({"slope_clip": jnp.float32(-0.1)}, "slope_clip is -0.1"),
        ({"slope_clip": math.inf}, "slope_clip is inf"),
        ({"mask": [0.5, 1, 0]}, "mask has more than 0 and 1"),
        ({"mask": [0, 2, 1]}, "mask has more than 0 and 1"),
        ({"mask": [[1], [1, 0]]}, "mask has more than 0 and 1"),
    ],
)
def test_numbers_that_guidance_cannot_have_are_one_line(more, says):
    with pytest.raises(UserError, match=says):
        guide(straight, total, **{"weight": 1.0, **more})


def test_a_time_is_one_number_and_an_action_of_floats():
    field = guide(straight, total, weight=1.0)
    with pytest.raises(UserError, match=r"t has shape \(3,\): a guided velocity takes one number"):
        field(POINT, jnp.array([0.1, 0.5, 0.9]))
    with pytest.raises(UserError, match="array of floats, not of int32"):
        field(jnp.array([1, 2, 3]), 0.1)
    with pytest.raises(UserError, match="array of floats, not of list"):
        field([0.3, -0.2, 0.1], 0.1)
    for part in ({"start": -1}, {"start": 3, "stop": 2}, {"stop": 9}, {"start": 0.5}):
        with pytest.raises(UserError, match="0 <= start <= stop <= num_steps"):
            integrate(field, POINT, num_steps=STEPS, **part)


def test_a_slope_that_is_not_finite_stays_where_guidance_may_move():
    q = lambda a: a[0] + jnp.sqrt(0.0 * a[2])  # whose slope in the last number is none
    moved = guide(straight, q, weight=1.0, mask=[1, 1, 0])(POINT, 0.5)
    np.testing.assert_allclose(moved, [0.7, 0.2, -0.1], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_actions_of_half_precision_stay_so(dtype):
    noise = POINT.astype(dtype)
    field = guide(straight, total, weight=jnp.float32(0.5))
    assert field(noise, 0.5).dtype == integrate(field, noise, num_steps=2).dtype == noise.dtype
    walked = Diffusion.of_products([0.9, 0.5]).sample(field, noise)
    assert walked.dtype == noise.dtype and jnp.isfinite(walked).all()


def test_best_of_takes_one_number_an_action_and_nothing_else():
    draw, key = lambda key: jax.random.normal(key, (3,)), jax.random.key(0)
    best = functools.partial(qgf_guide.best_of, draw)
    some = jax.vmap(draw)(jax.random.split(key, 4))
    q = lambda a: jnp.where(a[0] < some[:, 0].max(), a[0], jnp.nan)  # of the largest there is none
    np.testing.assert_array_equal(best(q, key, 4), some[jnp.argsort(some[:, 0])[-2]])
    with pytest.raises(UserError, match=r"q returned shape \(2,\) for one action"):
        best(lambda a: a[:2], key, 4)
    for n in (0, -1, 2.5, "4"):
        with pytest.raises(UserError, match=f"n is {n}; it must be a whole number"):
            best(total, key, n)


def test_best_of_keeps_what_the_critic_likes_best():
    q = lambda a: -jnp.abs(a - 0.5).sum()
    draw = lambda key: jax.random.normal(key, (2,))
    key = jax.random.key(3)
    drawn = [draw(k) for k in jax.random.split(key, 8)]
    np.testing.assert_array_equal(
        qgf_guide.best_of(draw, q, key, 8), max(drawn, key=lambda a: float(q(a)))
    )


# A Gaussian action N(MEAN, STD^2): of its noisy versions all predictions are known.
MEAN, STD = np.float32(0.4), np.float32(0.3)
PRODUCTS = np.cumprod(1 - np.linspace(1e-4, 0.25, 40))
DIFFUSION = Diffusion.of_products(PRODUCTS)


def predict(kind, diffusion=DIFFUSION):
    alpha, sigma = map(jnp.asarray, diffusion)

    def network(x, k):
        total = (alpha[k] * STD) ** 2 + sigma[k] ** 2
        clean = MEAN + alpha[k] * STD**2 * (x - alpha[k] * MEAN) / total
        noise = (x - alpha[k] * clean) / sigma[k]
        kinds = {"noise": noise, "action": clean, "velocity": alpha[k] * noise - sigma[k] * clean}
        return kinds[kind]

    return network


@pytest.mark.parametrize("kind", ["noise", "action", "velocity"])
def test_what_a_diffusion_predicts_is_a_velocity_whose_endpoint_is_the_clean_action(kind):
    velocity = DIFFUSION.velocity(predict(kind), kind)
    for k in (1, 20, 40):
        t, x = DIFFUSION.times[k], jnp.array([0.7, -1.0])
        action = x / (DIFFUSION.alpha[k] + DIFFUSION.sigma[k])
        end = qgf_guide.endpoint(action, t, velocity(action, t), clip=False)
        np.testing.assert_allclose(end, predict("action")(x, k), atol=2e-5)


def test_ddim_steps_are_euler_steps_and_reach_the_data():
    """Against DDIM as it is published, step by step; then the moments of what is drawn."""
    velocity = DIFFUSION.velocity(predict("noise"))
    x = np.array([1.3, -0.4], np.float32)
    found = DIFFUSION.sample(velocity, x)
    for k in range(40, 0, -1):
        noise = predict("noise")(x, k)
        clean = (x - DIFFUSION.sigma[k] * noise) / DIFFUSION.alpha[k]
        x = DIFFUSION.alpha[k - 1] * clean + DIFFUSION.sigma[k - 1] * noise
    np.testing.assert_allclose(found, x, atol=1e-5)
    fine = Diffusion.of_products(np.cumprod(1 - np.linspace(1e-4, 0.05, 300)))
    velocity = fine.velocity(predict("noise", fine))
    noise = jax.random.normal(jax.random.key(0), (4000,))
    for eta in (0.0, 1.0):
        drawn = fine.sample(velocity, noise, jax.random.key(1), eta=eta)
        np.testing.assert_allclose([drawn.mean(), drawn.std()], [MEAN, STD], atol=0.02)


def test_ancestral_sampling_is_ddpms():
    """One step of eta = 1 has the posterior's mean and the smaller variance (Ho et al., 2020, Eq. 7)."""
    two = Diffusion.of_products([0.6, 0.2])
    clean = 0.25  # whatever the noisy action is
    velocity = two.velocity(lambda x, k: jnp.full_like(x, clean), "action")
    noise, keys = jnp.float32(0.9), jax.random.split(jax.random.key(0), 4000)
    first = Diffusion(two.alpha[1:], two.sigma[1:])  # its only step is from 0.2 to 0.6
    step = lambda key: first.sample(velocity, noise, key, eta=1.0)
    drawn = jax.vmap(step)(keys)
    one, before, after = 0.2 / 0.6, 0.6, 0.2
    mean = (before**0.5 * (1 - one) * clean + one**0.5 * (1 - before) * 0.9) / (1 - after)
    variance = (1 - before) / (1 - after) * (1 - one)
    np.testing.assert_allclose(drawn.mean(), mean, atol=0.03)
    np.testing.assert_allclose(drawn.var(), variance, atol=0.03)


def test_a_guided_diffusion_moves_by_the_weight_as_a_flow_does():
    """Of a known action every push but the last is undone; see test_flow's point mass."""
    point = lambda x, k: jnp.full_like(x, 0.2)
    velocity = DIFFUSION.velocity(point, "action")
    field = guide(velocity, lambda a: 3.0 * a.sum(), weight=0.5)
    moved = DIFFUSION.sample(field, jnp.array([1.0, -1.0]))
    last = 1.0 - DIFFUSION.times[1]
    np.testing.assert_allclose(moved, 0.2 + 0.5 * 3.0 * last, atol=1e-5)


def test_fewer_steps_of_a_schedule_and_wrong_ones():
    few = Diffusion.of_products(PRODUCTS, keep=range(3, 40, 4))
    assert len(few.times) == 11 and few.times[0] == 1 and (np.diff(few.times) < 0).all()
    for wrong in ([0.5, 0.9], [1.2, 0.1], [], [0.5, 0.0], [1.0, 0.5], [1 - 1e-17, 0.5]):
        with pytest.raises(UserError, match="products must"):
            Diffusion.of_products(wrong)
    with pytest.raises(UserError, match="prediction is 'x0': give 'noise', 'action'"):
        DIFFUSION.velocity(point_of, "x0")
    with pytest.raises(UserError, match=r"eta is 0.5: .* give a key"):
        DIFFUSION.sample(point_of, jnp.zeros(2), eta=0.5)
    with pytest.raises(UserError, match="eta is 3: give a number from 0"):
        DIFFUSION.sample(point_of, jnp.zeros(2), jax.random.key(0), eta=3)
    with pytest.raises(UserError, match="keep does not go with 40 products"):
        Diffusion.of_products(PRODUCTS, keep=[1, 40])


def test_networks_of_another_shape_are_not_broadcast():
    one = lambda x, k: jnp.zeros(1)
    with pytest.raises(
        UserError, match=r"predict returned shape \(1,\) for an action of shape \(2,"
    ):
        DIFFUSION.velocity(one)(jnp.zeros(2), 0.5)
    with pytest.raises(UserError, match=r"velocity returned shape \(1,\)"):
        DIFFUSION.sample(one, jnp.zeros(2))
    with pytest.raises(UserError, match=r"endpoint returned shape \(1,\)"):
        qgf_guide.velocity_to(one)(jnp.zeros(2), 0.5)


def point_of(x, k):
    return x


def test_a_consistency_model_is_a_flow_straight_to_what_it_says():
    said = lambda a, t: jnp.tanh(a) * t
    velocity = qgf_guide.velocity_to(said)
    action, t = jnp.array([0.3, -0.8]), jnp.float32(0.25)
    end = qgf_guide.endpoint(action, t, velocity(action, t))
    np.testing.assert_allclose(end, said(action, t), rtol=1e-6)


def test_without_pytorch_its_module_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "qgf_guide.torch", raising=False)
    with pytest.raises(UserError, match=r"needs PyTorch: pip install 'qgf-guide\[torch\]'"):
        importlib.import_module("qgf_guide.torch")


def test_another_library_stands_for_jax_where_it_was_asked_to_and_no_longer():
    """`qgf_guide.torch` does so; here NumPy."""
    action = np.array([3.0, 4.0], np.float32)
    with lazy.computing_with(types.SimpleNamespace(jnp=np)):
        assert isinstance(norms.length(action), np.ndarray) and not lazy.is_jax()
    with pytest.raises(AttributeError), lazy.computing_with(types.SimpleNamespace(jnp=None)):
        norms.length(action)
    assert isinstance(norms.length(action), jax.Array) and lazy.is_jax()


def test_every_public_name_says_what_it_is():
    for name in qgf_guide.__all__:
        found = getattr(qgf_guide, name)
        assert isinstance(found, dict) or inspect.getdoc(found)
    with pytest.raises(AttributeError, match="no attribute 'integrat'"):
        _ = qgf_guide.integrat
