"""Actions of any units: what the networks see, what comes back, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import rows_of, tiny

from qgf_guide.guidance import guide
from qgf_jax.core.networks import Networks
from qgf_jax.data.action_scale import ActionScale
from qgf_jax.data.chunks import Dataset
from qgf_jax.data.load import Loaded
from qgf_jax.data.shards import Source
from qgf_jax.envs import families
from qgf_jax.envs.families import Family
from qgf_jax.errors import UserError
from qgf_jax.methods import table
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import _is_alike
from qgf_jax.training.loop import pretrain
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Spec

LOW, HIGH = np.array([0.0, -10.0]), np.array([2.0, 10.0])
OPTIONS = {"action_scale": "bounds", "clip": "auto"}


def source_of(actions, seekable=True):
    """A source of two episodes that hold `actions` [6, 2] and void last rows."""
    rows = rows_of([3, 3])
    whole = np.full((len(rows.ends), 2), 99.0, np.float32)
    whole[~rows.ends] = actions
    rows = rows._replace(actions=whole)
    ends = np.flatnonzero(rows.ends)
    return Source(Path("file"), np.array([0, len(whole)]), ends, {}, rows.part, seekable, {})


def scaled(source, options, bounds=None):
    scale = ActionScale.of(source, OPTIONS | options, bounds)
    rows = scale.applied(source).read(0, int(source.slices[-1]))
    return scale.into(Spec(state=(3,), action=2, chunk=1)), rows.actions[~rows.ends]


ACTIONS = np.array([[0, -10], [2, 10], [1, 0], [0.5, 5], [1.5, -5], [1, 10]], np.float32)


def test_bounds_become_the_box_and_come_back():
    spec, actions = scaled(source_of(ACTIONS), {}, (LOW, HIGH))
    np.testing.assert_allclose(
        actions, [[-1, -1], [1, 1], [0, 0], [-0.5, 0.5], [0.5, -0.5], [0, 1]]
    )
    np.testing.assert_allclose(spec.to_environment(actions), ACTIONS)
    assert spec.clip and Spec.of(spec.record()) == spec


def test_the_box_is_left_as_it_is():
    for bounds in (None, (-np.ones(2), np.ones(2))):
        given = ACTIONS / 10
        spec, actions = scaled(source_of(given), {}, bounds)
        np.testing.assert_array_equal(actions, given)
        assert spec.to_environment(actions) is actions
        assert spec.record().keys().isdisjoint(["action_shift", "action_scale", "clip"])


def test_mean_and_deviation_become_0_and_1_whatever_the_offset():
    given = ACTIONS + np.float32([1000, 0])
    spec, actions = scaled(source_of(given), {"action_scale": "std"})
    np.testing.assert_allclose(actions.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(actions.std(axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(spec.to_environment(actions), given, rtol=1e-6, atol=1e-4)
    assert not spec.clip and np.abs(actions).max() > 1


def test_one_and_ninety_nine_percent_become_the_ends():
    given = np.tile(np.linspace(-50, 150, 6, dtype=np.float32)[:, None], 2)
    spec, actions = scaled(source_of(given), {"action_scale": "quantile"})
    low, high = np.quantile(given[:, 0], [0.01, 0.99])
    np.testing.assert_allclose(spec.to_environment(np.float32([-1, 1])), [low, high], rtol=1e-5)
    assert not spec.clip and actions.max() > 1 and actions.min() < -1


def test_a_number_that_never_changes_is_moved_and_not_divided():
    given = np.tile(np.float32([3.0, 7.0]), (6, 1))
    for kind in ("std", "quantile"):
        spec, actions = scaled(source_of(given), {"action_scale": kind})
        np.testing.assert_array_equal(actions, 0)
        assert spec.action_scale == (1.0, 1.0)


@pytest.mark.parametrize(
    ("clip", "kind", "result"), [("box", "std", True), ("none", "bounds", False)]
)
def test_the_clip_can_be_chosen(clip, kind, result):
    spec, _ = scaled(source_of(ACTIONS), {"action_scale": kind, "clip": clip}, (LOW, HIGH))
    assert spec.clip is result and Spec.of(spec.record()).clip is result


def test_an_action_out_of_bounds_is_named():
    wrong = ACTIONS.copy()
    wrong[4, 1] = 11
    with pytest.raises(UserError, match=r"number 1 of the action in row 5 is 11, .* -10 to 10"):
        scaled(source_of(wrong), {}, (LOW, HIGH))
    with pytest.raises(UserError, match=r"actions leave \[-1, 1\] in row 0: scale them"):
        scaled(source_of(ACTIONS), {})


def test_without_bounds_the_user_chooses_another_scale():
    with pytest.raises(UserError, match="not bounded on both sides: set data.action_scale=std"):
        scaled(source_of(ACTIONS), {}, (LOW, np.array([2.0, np.inf])))
    with pytest.raises(
        UserError, match="number 1 .* bounds -10 and -10, with nothing between them"
    ):
        scaled(source_of(ACTIONS), {}, (LOW, np.array([2.0, -10.0])))


def test_scales_of_another_width_are_refused():
    record = Spec(state=(3,), action=2, chunk=1, action_shift=(0.0,), action_scale=(1.0,)).record()
    with pytest.raises(ValueError, match="scales of actions"):
        Spec.of(record)


@pytest.mark.parametrize(
    ("change", "same"), [({}, True), ({"action_scale": (1.0, 10.0 + 1e-6)}, True),
                         ({"action_scale": (1.0, 10.01)}, False), ({"action_shift": (1.01, 0.0)}, False),
                         ({"action_shift": (), "action_scale": ()}, False), ({"clip": False}, False)],
)  # fmt: skip
def test_a_resumed_run_has_the_same_scale_but_for_rounding(change, same):
    spec = Spec((3,), 2, 1, action_shift=(1.0, 0.0), action_scale=(1.0, 10.0))
    assert _is_alike(spec.record(), spec._replace(**change).record()) is same


# The toy of test_toy.py: three modes of actions, of which the critic likes one corner best.
MODES = np.array([[-0.6, 0.0], [0.2, 0.6], [0.6, -0.4]])
BEST = np.array([0.7, -0.3])


class Quadratic(nn.Module):
    """Q = -5 |action - best|^2 of the networks' actions."""

    best: tuple[float, ...]

    @nn.compact
    def __call__(self, obs, action):
        idle = self.param("idle", nn.initializers.zeros, ())
        return -5.0 * jnp.sum((action - jnp.array(self.best)) ** 2) + 0.0 * idle


def toy(monkeypatch, options, bounds, shift, scale, weight=0.3):
    """(actions of the environment with QGF and without [200, 2], the spec), trained on the toy's
    actions moved and stretched into the environment's."""
    rng = np.random.default_rng(0)
    n = 3000
    moved = MODES[rng.integers(0, 3, n)] + rng.normal(0, 0.12, (n, 2))
    moved = shift + scale * np.clip(moved, -1, 1)
    rows = rows_of([n])._replace(
        actions=np.append(moved, [moved[0]], axis=0).astype(np.float32),
        observations=np.zeros((n + 1, 1), np.float32),
    )
    source = Source(Path("toy"), np.array([0, n + 1]), np.array([n]), {}, rows.part, True, {})
    how = ActionScale.of(source, OPTIONS | options, bounds)
    spec = how.into(Spec(state=(1,), action=2, chunk=1))
    rows = how.applied(source).read(0, n + 1)
    margin = 1e-5 if how.clip else None
    data = Dataset.of(
        rows, np.zeros(n + 1), np.zeros(n + 1), chunk=1, discount=0.9, action_clip=margin
    )
    goal = (shift + scale * BEST - (how.shift if how.shift.size else 0)) / (
        how.scale if how.scale.size else 1
    )
    real = Builder.networks

    class Known(Networks):
        critic = property(lambda self: Quadratic(tuple(map(float, goal))))

    monkeypatch.setattr(Builder, "networks", lambda self: Known(**vars(real(self))))
    config = tiny(
        "qgf",
        **{
            "networks.policy_hidden": (32, 32),
            "networks.critic_hidden": (32, 32),
            "sampler.num_steps": 6,
            "train.batch_size": 64,
            "optimizer.learning_rate": 3e-3,
        },
    )
    trainer = Trainer.of(Builder(config, spec).learner(), config, spec)
    state, _ = trainer.run(trainer.init(np.arange(1)), jax.device_put(data), 400)
    params = table.acting_params(state.params, state.target_params)
    params = jax.tree.map(lambda x: x[0], params)
    sample = Builder(config, spec).sample("qgf")
    keys = jax.random.split(jax.random.key(1), 200)

    def act(weight):
        one = lambda key: sample(params, spec.example(), key, jnp.float32(weight))
        return np.asarray(spec.to_environment(jax.jit(jax.vmap(one))(keys)))

    return act(weight), act(0.0), spec


def q_of(action, shift, scale):
    return -5.0 * (((action - shift) / scale - BEST) ** 2).sum(axis=-1).mean()


@pytest.mark.whole
def test_an_asymmetric_box_is_learned_as_the_symmetric_one(monkeypatch):
    """[0, 2] x [-10, 10], in which the toy's actions are stretched."""
    found = []
    for low, high in ((-np.ones(2), np.ones(2)), (LOW, HIGH)):
        shift, scale = (low + high) / 2, (high - low) / 2
        with monkeypatch.context() as patch:
            guided, reference, spec = toy(patch, {}, (low, high), shift, scale)
        assert (guided >= low - 1e-5).all() and (guided <= high + 1e-5).all() and spec.clip
        found.append([q_of(guided, shift, scale), q_of(reference, shift, scale)])
    np.testing.assert_allclose(found[0], found[1], atol=0.05)
    assert found[1][0] > found[1][1] + 1.5


@pytest.mark.whole
def test_without_a_box_actions_reach_beyond_1(monkeypatch):
    """Deviations are 0.5, so the best action lies at 1.4 of them; a box would end at 1."""
    shift, scale = np.zeros(2), np.ones(2)
    for clip, beyond in (("auto", True), ("box", False)):
        with monkeypatch.context() as patch:
            guided, reference, spec = toy(
                patch, {"action_scale": "std", "clip": clip}, None, shift, scale
            )
        own = (guided - spec.action_shift) / spec.action_scale
        assert (own.max() > 1.3) == beyond and (own.max() <= 1.0001) != beyond
        if beyond:
            assert q_of(guided, shift, scale) > q_of(reference, shift, scale) + 1.5


@pytest.mark.parametrize(("clip", "at"), [("box", 1.0), ("none", 3.0)])
def test_guide_looks_at_the_endpoint_that_it_is_told_to(clip, at):
    """Q = a^2, so that the gradient is twice the endpoint: 1 + (1 - 0) * 2 = 3, or 1 in the box."""
    field = guide(lambda a, t: 2 * jnp.ones(1), lambda a: a[0] ** 2, weight=1.0, clip=clip)
    np.testing.assert_allclose(field(jnp.ones(1), 0.0), 2 + 2 * at)
    with pytest.raises(UserError, match="give 'box', 'straight_through' or 'none'"):
        guide(lambda a, t: a, lambda a: a[0], weight=1.0, clip="sphere")


class _Wide(Family):
    """Anywhere, with actions in [0, 2] x [-10, 10]."""

    def make(self, name):
        raise UserError("nobody plays it")

    def widths(self, name):
        return 3, 0, 2

    def bounds(self, name):
        return LOW, HIGH


FAMILY = _Wide()


def test_a_run_keeps_the_scale_of_its_actions(tmp_path, monkeypatch):
    monkeypatch.setitem(families._FAMILIES, "wide", f"{__name__}:FAMILY")
    rows = rows_of([30] * 8)
    rng = np.random.default_rng(0)
    actions = rng.uniform(LOW, HIGH, (len(rows.ends), 2)).astype(np.float32)
    np.savez(
        tmp_path / "x.npz",
        observations=rng.normal(size=(len(rows.ends), 3)).astype(np.float32),
        actions=actions,
        terminals=rows.ends,
        rewards=actions[:, 0],
    )
    config = tiny(**{"env": "wide:x", "data.dir": str(tmp_path), "data.chunk": 2})
    loaded = Loaded.of(config)
    assert 0.9 < np.abs(loaded.dataset.action).max() <= 1 - 0.9e-5
    free = Loaded.of({**config, "data": {**config["data"], "action_scale": "std"}})
    assert np.abs(free.dataset.action).max() > 1.5 and not Spec.of(free.spec).clip
    pretrain(config, tmp_path / "run")
    run = LoadedRun.open(tmp_path / "run")
    assert run.spec.action_scale == (1.0, 10.0) and run.spec.action_shift == (1.0, 0.0)
    policy, act = run.policy("reference"), run.actor("reference")
    params = run.params_of(0)
    keys = jax.random.split(jax.random.key(0), 64)
    ours = np.array([policy(np.zeros(3), key) for key in keys])
    played = jax.vmap(lambda i: act(params, jnp.zeros(3), jnp.array([1, i, 0]), jnp.float32(0)))(
        jnp.arange(64)
    )
    for found in (ours, np.asarray(played)):
        assert found.shape == (64, 2, 2)
        assert (found >= LOW - 1e-5).all() and (found <= HIGH + 1e-5).all()
        assert np.abs(found[..., 1]).max() > 3 and found[..., 0].mean() > 0.4


def test_the_sampler_looks_beyond_a_box_that_is_not_there():
    """The critic rises only beyond 1.5, where the flow ends at 3 and more."""
    nets = SimpleNamespace(
        noise=lambda key: jax.random.normal(key, (1,)),
        velocity=lambda group, obs: lambda action, t: 5 * jnp.ones(1),
        logits_of=lambda members, obs: lambda action: jax.nn.relu(action - 1.5),
        to_value=lambda logits: logits,
        aggregate=lambda members: members[0],
    )
    params = {"policy": None, "critic": None}
    moved = {}
    for clip in (True, False):
        nets.spec = Spec(state=(1,), action=1, chunk=1, clip=clip)
        nets.clip = lambda action: action
        sample = Part.named("sampler", "guided").make(nets, num_steps=5)
        ends = [sample(params, None, jax.random.key(0), jnp.float32(w))[0] for w in (0.0, 1.0)]
        moved[clip] = float(ends[1] - ends[0])
    assert moved[True] == 0.0
    np.testing.assert_allclose(moved[False], 1.0, rtol=1e-5)
