"""What a TD critic bootstraps on: the action of the policy, the reference, the data, the best of N."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
from conftest import ROOT, at, rows_of, tiny
from test_learners import SPEC, N, loss_of, make_batch

from qgf_guide import flow
from qgf_jax import config as configs
from qgf_jax.data import feeder
from qgf_jax.data.chunks import Dataset, GoalDataset
from qgf_jax.data.goals import GoalSampler, _Draw
from qgf_jax.data.sampling import BatchSampler, _ChunkSampler
from qgf_jax.errors import UserError
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.methods.parts import Part
from qgf_jax.types import Batch, Spec

LENGTHS = [5, 1, 4, 3, 7, 2]
TOTAL = sum(LENGTHS)
LEFT = np.concatenate([np.arange(n, 0, -1) for n in LENGTHS])
"""Transitions of its trajectory that a transition has before it, itself too."""
KEY = jax.random.key(3)


def gathered(dataset, starts, chunk, n_step, blocks=1):
    sampler = _ChunkSampler(len(starts), chunk, n_step, blocks, with_next=True)
    on_device = jax.device_put(dataset)
    return sampler.gather(on_device, sampler.locate(on_device, jnp.asarray(starts)))


def check_next(batch, starts, actions, chunk, n_step, left=LEFT, known=True):
    """`known` [B]: whether the dataset holds what follows."""
    whole = (left[starts] >= n_step + chunk) & known
    ended = np.asarray(batch.discount) == 0
    np.testing.assert_array_equal(batch.next_weight, batch.weight * (whole | ended))
    assert np.asarray(batch.next_weight).sum() > 0
    for i in np.flatnonzero(whole):
        follows = starts[i] + n_step + np.arange(chunk)
        np.testing.assert_array_equal(batch.next_action[i], actions[follows].ravel())


@pytest.mark.parametrize(("chunk", "n_step"), [(1, 1), (2, 2), (2, 3), (3, 2)])
def test_the_next_chunk_begins_where_the_return_ends(chunk, n_step):
    rows = rows_of(LENGTHS)
    masks = np.random.default_rng(1).uniform(size=len(rows.ends)) > 0.2
    made = Dataset.of(
        rows, np.ones(len(masks)), masks, chunk=chunk, discount=0.9, n_step=n_step, action_clip=None
    )
    starts = np.arange(TOTAL - max(chunk, n_step) + 1)
    batch = gathered(made, starts, chunk, n_step)
    check_next(batch, starts, rows.actions[~rows.ends], chunk, n_step)
    ended = (np.asarray(batch.discount) == 0) & (np.asarray(batch.weight) > 0)
    assert ended.any() and np.asarray(batch.next_weight)[ended].all()
    seen = batch.next_view()
    assert seen.weight is batch.next_weight and seen.action is batch.action


def test_the_next_chunk_is_in_the_same_piece_or_block():
    rows, ones, left = rows_of([18, 4]), np.ones(24), np.r_[18:0:-1, 4:0:-1]
    made = Dataset.of(rows, ones, ones, chunk=2, discount=0.9, n_step=3, action_clip=None)
    pieces, actions = made.split(2, 3), rows.actions[~rows.ends]
    starts = [np.arange(piece.count_starts(3)) for piece in pieces]
    size, window = len(pieces[0].action), feeder._empty(jax.device_put(pieces[0]), 2)
    for i, (piece, mine) in enumerate(zip(pieces, starts, strict=True)):
        first = int(np.flatnonzero((actions == piece.action[0]).all(axis=1))[0])
        known = mine + 5 <= size
        check_next(gathered(piece, mine, 2, 3), first + mine, actions, 2, 3, left, known)
        window = feeder._replace(window, jax.device_put(piece), i)
    both = gathered(window, window.nth_start(np.arange(2 * len(starts[0])), 3, 2), 2, 3, blocks=2)
    alone = [gathered(piece, mine, 2, 3) for piece, mine in zip(pieces, starts, strict=True)]
    for name in ("next_weight", "action"):
        each = np.concatenate([getattr(one, name) for one in alone])
        np.testing.assert_array_equal(getattr(both, name), each)
    counts = np.asarray(both.next_weight) > 0
    each = np.concatenate([one.next_action for one in alone])
    np.testing.assert_array_equal(np.asarray(both.next_action)[counts], each[counts])


def test_the_next_chunk_with_goals():
    """Where the goal is reached within the return nothing follows."""
    rows = rows_of(LENGTHS)
    data = jax.device_put(GoalDataset.of(rows, None, action_clip=None))
    starts = np.arange(TOTAL - 2)
    row, end = data.row[starts], data.end[starts]
    goal = jnp.where(starts % 3 == 0, row, row + 9)  # here, or too far
    draw = _Draw(jnp.asarray(starts), row, end, goal, goal)
    sampler = GoalSampler(len(starts), 2, 3, None, None, 0.9, True, with_next=True)
    batch = sampler.gather(data, draw)
    np.testing.assert_array_equal(np.asarray(batch.discount) == 0, starts % 3 == 0)
    check_next(batch, starts, rows.actions[~rows.ends], 2, 3)


@pytest.mark.parametrize("whose", ["policy", "data"])
def test_batches_have_the_next_chunk_if_a_critic_asks_for_it(whose):
    config = tiny("qgf", critic="td", **{"critics.td.next": whose})
    rows = rows_of([20, 20])
    data = Dataset.of(rows, np.ones(42), np.ones(42), chunk=3, discount=0.9)
    for spec, made in (
        (Spec((2,), 2, 3), data),
        (Spec((2,), 2, 3, (2,)), GoalDataset.of(rows, None)),
    ):
        feed, data = BatchSampler.of(config, spec), jax.device_put(made)
        batch = jax.eval_shape(lambda d, feed=feed: feed.gather(d, feed.draw(d, KEY)), data)
        shape = None if whose == "policy" else (8, 6)
        assert getattr(batch.next_action, "shape", None) == shape


def test_sarsa_of_two_states_by_hand():
    """A -> B -> end with rewards 0 and 1, gamma 0.5; in B the data act with 0.5, the policy with -1.

    Of two members Q = s + k a, k = 1 and 3: at (B, 0.5) they are 1.5 and 2.5, so the target of A is
    0 + 0.5 (2 - 0.5 * 0.5) = 0.875, and that of B is 1.
    """
    observations = np.array([[0.0], [1.0], [0.0], [0.0]], np.float32)
    actions = np.array([[0.25], [0.5], [-0.75], [0.125]], np.float32)
    ends = np.array([False, False, True, True])
    rows = rows_of([2, 0])._replace(observations=observations, actions=actions, ends=ends)
    made = Dataset.of(rows, np.array([0.0, 1, 9, 9]), np.array([1, 0, 1, 1]), chunk=1, discount=0.5)
    batch = gathered(made, np.arange(2), 1, 1)
    np.testing.assert_array_equal(batch.next_weight, [1.0, 1.0])
    nets = SimpleNamespace(
        apply_ensemble=lambda k, obs, a: obs.state[0] + k * a[0], clip=lambda action: action
    )
    target = {"critic": jnp.array([1.0, 3.0])}

    def loss(k, **options):
        learner = Part.named("critic", "td").make(
            nets, lambda *_: jnp.full(1, -1.0), rho=0.5, **options
        )
        return float(loss_of(learner, "critic", {"critic": jnp.full(2, k)}, target, batch))

    # One k for both members: Q(A, 0.25) = 0.25 k, Q(B, 0.5) = 1 + 0.5 k.
    for k in (0.0, 1.0, 3.5):
        by_hand = ((0.25 * k - 0.875) ** 2 + (1 + 0.5 * k - 1.0) ** 2) / 2
        assert loss(k, next="data") == pytest.approx(by_hand, rel=1e-5)
        # The policy: Q(B, -1) = 0 and -2, so the target is 0.5 (-1 - 0.5).
        other = ((0.25 * k + 0.75) ** 2 + (0.5 * k) ** 2) / 2
        assert loss(k) == pytest.approx(other, rel=1e-5)


def test_no_gradient_flows_through_the_next_action():
    nets = SimpleNamespace(
        apply_ensemble=lambda k, obs, a: obs.state[0] + k * a[0], clip=lambda action: action
    )
    sample = lambda params, *_: jnp.full(4, params["actor"])
    learner = Part.named("critic", "td").make(nets, sample)
    target, batch = {"critic": jnp.array([1.0, 3.0])}, make_batch()
    slope = jax.grad(lambda params: loss_of(learner, "critic", params, target, batch))(
        {"critic": jnp.ones(2), "actor": 0.3}
    )
    assert slope["actor"] == 0.0 and slope["critic"].all()


def test_sarsa_leaves_out_what_has_no_next_chunk():
    learner = Builder(tiny("qgf", critic="td", **{"critics.td.next": "data"}), SPEC).learner()
    params = learner.init(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    target = {"critic": learner.init(jax.random.key(1), SPEC.example(), jnp.zeros(4))["critic"]}

    def loss(follows):
        weight = make_batch().weight.at[1].set(0.0)
        batch = make_batch(next_action=jnp.full((N, 4), 0.3).at[1].set(follows), next_weight=weight)
        return loss_of(learner, "critic", params, target, batch)

    assert loss(0.9) == loss(-0.9)
    assert "critic" in learner.losses and learner.losses["policy"].view is Batch.policy_view


@pytest.mark.whole(but_every=4)
@pytest.mark.parametrize(
    ("whose", "n", "group"),
    [("policy", 1, "actor"), ("reference", 1, "policy"), ("reference", 3, "policy"),
     ("policy", 3, "actor")],
)  # fmt: skip
def test_qams_critic_bootstraps_on_whom_it_is_told(whose, n, group):
    """QAM has a policy of its own beside the reference; the best of n is the target critic's."""
    given = {"critics.td.next": whose, "critics.td.best_of": n, "critics.td.rho": 0.0}
    builder = Builder(tiny("qam", critic="td", **given), SPEC)
    learner, nets, batch = builder.learner(), builder.networks(), make_batch()
    params = learner.init(jax.random.key(0), SPEC.example(), jnp.zeros(4))
    other = learner.init(jax.random.key(1), SPEC.example(), jnp.zeros(4))
    target = {name: other[name] for name in learner.targets}
    acting, losses = {**params, **target}, []
    for i, key in enumerate(jax.random.split(KEY, N)):
        obs, slow = at(batch.next_obs, i), acting["critic"]
        act_key = jax.random.split(key)[0]
        keys = [act_key] if n == 1 else jax.random.split(act_key, n)
        field = nets.velocity(acting[group], obs)
        candidates = [
            nets.clip(flow.integrate(field, jax.random.normal(k, (4,)), num_steps=3)) for k in keys
        ]
        best = max(candidates, key=lambda a: float(nets.apply_ensemble(slow, obs, a).min()))
        goal = batch.reward[i] + batch.discount[i] * nets.apply_ensemble(slow, obs, best).mean()
        q = nets.apply_ensemble(params["critic"], at(batch.obs, i), batch.action[i])
        losses.append(batch.weight[i] * jnp.mean((q - goal) ** 2))
    found = jax.jit(lambda: loss_of(learner, "critic", params, target, batch, KEY))()
    assert float(found) == pytest.approx(float(np.mean(losses)), rel=2e-3)


@pytest.mark.parametrize(
    ("algorithm", "given", "hint"),
    [
        ("rebrac", {"next": "reference"}, "algorithm 'rebrac' trains no flow policy: set it to"),
        (
            "qgf",
            {"next": "data", "best_of": "4"},
            "best_of is 4, and the data have one next action",
        ),
        ("qgf", {"next": "mine"}, "critics.td.next is 'mine'"),
        ("qgf", {"best_of": "0"}, "critics.td.best_of is 0"),
    ],
)
def test_next_actions_that_there_are_not(algorithm, given, hint):
    texts = {f"critics.td.{key}": value for key, value in given.items()}
    choice = {"algorithm": algorithm, "critic": "td"}
    with pytest.raises(UserError, match=hint):
        configs.load(tiny_config.__file__, choice | texts)


@pytest.mark.parametrize(
    ("name", "algorithm", "critic", "members", "whose"),
    [
        ("iql_2", "qgf", "iql", 2, None),
        ("iql_10", "qgf", "iql", 10, None),
        ("td_reference_10", "qgf", "td", 10, "reference"),
        ("td_qam_10", "qam", "td", 10, "policy"),
        ("sarsa_10", "qgf", "td", 10, "data"),
    ],
)
def test_the_table_of_five_critics(name, algorithm, critic, members, whose):
    config = configs.load(f"{ROOT}/experiments/configs/critics.py:cube_single_{name}")
    assert (config.algorithm, config.critic) == (algorithm, critic)
    assert config.networks.ensemble == members
    assert config.networks.aggregate == ("min" if members == 2 else "pessimistic")
    assert config.critics[critic].get("next") == whose
    assert {"qgf", "qgf_jacobian", "best_of"} <= set(algorithms.Method.named(algorithm).serves)
