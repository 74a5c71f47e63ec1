"""Goals in hindsight: hand-made trajectories, the benchmark's definition, and large draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import rows_of

from qgf_jax.data.chunks import GoalDataset
from qgf_jax.data.goals import GoalSampler, _Draw, _GoalDistribution
from qgf_jax.data.sampling import BatchSampler
from qgf_jax.types import Spec

GAMMA = 0.9
LENGTHS = [6, 2, 5]  # transitions; rows 0 to 6, 7 to 9, 10 to 15
N = sum(LENGTHS)


def dataset(lengths=LENGTHS, **kwargs):
    return jax.device_put(GoalDataset.of(rows_of(lengths), kwargs.get("goal"), action_clip=None))


def gather(start, goal, actor_goal=None, **options):
    data = dataset()
    return sampler(**options).gather(data, drawn(data, start, goal, actor_goal or goal))


def sampler(**options):
    """That gathers; how it would draw is of no account."""
    defaults = {"chunk": 1, "n_step": 1, "discount": GAMMA, "negative_reward": True}
    nothing = {"batch_size": 1, "critic": None, "actor": None}
    return GoalSampler(**nothing | defaults | options)


def drawn(data, start, *goals):
    start = jnp.asarray(start, jnp.int32)
    return _Draw(
        start, data.row[start], data.end[start], *(jnp.asarray(x, jnp.int32) for x in goals)
    )


@pytest.mark.parametrize("negative", [True, False])
def test_one_step_is_the_benchmarks_reward_and_mask(negative):
    """OGBench: success = (row == goal row), mask = 1 - success, reward = success - negative."""
    transitions = [(i, row) for i, row in enumerate(np.flatnonzero(~rows_of(LENGTHS).ends))]
    pairs = [(i, row, goal) for i, row in transitions for _, goal in transitions]
    start, row, goal = map(list, zip(*pairs, strict=True))
    batch = gather(start, goal, negative_reward=negative)
    success = np.array([r == g for r, g in zip(row, goal, strict=True)], np.float32)
    np.testing.assert_allclose(batch.reward, success - negative, atol=1e-6)
    np.testing.assert_allclose(batch.discount, GAMMA * (1 - success), atol=1e-6)
    np.testing.assert_array_equal(batch.next_obs.state[:, 0], np.array(row) + 1)
    np.testing.assert_array_equal(batch.obs.state[:, 0], row)
    np.testing.assert_array_equal(batch.obs.goal[:, 0], goal)
    np.testing.assert_array_equal(batch.next_obs.goal[:, 0], goal)


def rollout(row, goal, end, n_step):
    """A return step by step: the rewards of OGBench one by one, until the goal or the end."""
    costs, bonus, discount = 0.0, 0.0, 1.0
    for step in range(n_step):
        if row + step >= end:
            break
        if row + step == goal:
            return costs, discount, 0.0
        costs -= discount
        discount *= GAMMA
    return costs, bonus, GAMMA**n_step


@pytest.mark.parametrize("n_step", [1, 2, 4])
def test_longer_returns_end_at_the_goal(n_step):
    ends = np.repeat([6, 9, 15], [6, 2, 5])
    transitions = list(enumerate(np.flatnonzero(~rows_of(LENGTHS).ends)))
    pairs = [(i, r, g) for i, r in transitions[: N - n_step + 1] for _, g in transitions]
    start, row, goal = map(list, zip(*pairs, strict=True))
    expected = np.array([rollout(r, g, ends[i], n_step) for i, r, g in pairs])
    negative = gather(start, goal, n_step=n_step, chunk=min(2, n_step))
    positive = gather(start, goal, n_step=n_step, chunk=min(2, n_step), negative_reward=False)
    np.testing.assert_allclose(negative.reward, expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(positive.reward, expected[:, 1], rtol=1e-5)
    np.testing.assert_allclose(negative.discount, expected[:, 2], rtol=1e-5)
    left = ends[start] - np.array(row)
    np.testing.assert_array_equal(negative.weight, left >= n_step)
    np.testing.assert_array_equal(negative.actor.weight, left >= min(2, n_step))
    np.testing.assert_array_equal(negative.next_obs.state[:, 0], row + np.minimum(left, n_step))


def test_actions_of_a_return_begin_with_those_of_the_chunk():
    batch = gather([0, 3], [5, 12], n_step=3, chunk=2)
    actions = np.asarray(dataset().action)
    np.testing.assert_array_equal(batch.long_action[1], actions[3:6].ravel())
    np.testing.assert_array_equal(batch.action, batch.long_action[:, :4])


def test_policy_has_a_goal_of_its_own():
    batch = gather([1], [4], [11])
    seen = batch.policy_view()
    goals_of = (batch.obs.goal, seen.obs.goal, seen.next_obs.goal)
    assert [goal[0, 0] for goal in goals_of] == [4, 11, 11]
    assert (seen.obs.state[0, 0], seen.next_obs.state[0, 0]) == (1, 2)


def test_policy_is_judged_after_its_chunk_and_the_critic_after_its_return():
    batch = gather([0, 4], [5, 5], n_step=4, chunk=2)
    np.testing.assert_array_equal(batch.actor.next_obs.state[:, 0], [2, 6])
    np.testing.assert_array_equal(batch.next_obs.state[:, 0], [4, 6])


def test_subgoals_stop_at_the_goal_and_at_the_last_state_but_one():
    batch = gather([0, 0, 0, 3], [1] * 4, [2, 5, 12, 1], subgoal_steps=4)
    np.testing.assert_array_equal(batch.subgoal[:, 0], [4, 4, 4, 5])
    np.testing.assert_array_equal(batch.subgoal_to_goal[:, 0], [2, 4, 4, 5])


def test_goals_may_be_other_numbers_than_observations():
    marks = np.arange(16, dtype=np.float32)[:, None] * 10.0
    data = dataset(goal=marks)
    batch = sampler().gather(data, drawn(data, [2], [5], [6]))
    np.testing.assert_array_equal(batch.obs.state, [[2, 2]])
    np.testing.assert_array_equal((batch.obs.goal, batch.actor.obs.goal), [[[50]], [[60]]])


def draws(how, lengths, start, n=40_000, discount=GAMMA):
    data = dataset(lengths)
    row, end = (jnp.full(n, x[start], jnp.int32) for x in (data.row, data.end))
    found = _GoalDistribution(*how).draw(data, row, end, jax.random.key(3), discount=discount)
    return np.bincount(np.asarray(found), minlength=len(rows_of(lengths).ends)) / n


def test_geometric_goals_lie_ahead_with_the_discounts_chances():
    shares = draws((0, 1, 0, True), [6, 4], 1)
    k = np.arange(1, 4)
    expected = np.append((1 - GAMMA) * GAMMA ** (k - 1), GAMMA**3)  # the rest piles up on row 5
    np.testing.assert_allclose(shares[2:6], expected, atol=0.01)
    assert shares[6:].sum() == 0 and shares[:2].sum() == 0  # row 6 ends the trajectory: no goal


def test_goals_without_a_discount_are_the_last_state_but_one():
    assert draws((0, 1, 0, True), [6, 4], 1, n=100, discount=1.0)[5] == 1.0


def test_uniform_goals_lie_ahead_with_half_the_weight_on_the_ends():
    shares = draws((0, 1, 0, False), [6, 4], 1)
    np.testing.assert_allclose(shares[2:6], np.array([0.5, 1, 1, 0.5]) / 3, atol=0.01)


def test_last_transition_is_its_own_goal():
    for geometric in (True, False):
        assert draws((0, 1, 0, geometric), [6, 4], 5)[5] == 1.0


def test_current_and_random_goals_come_with_their_chances():
    shares = draws((0.2, 0.5, 0.3, False), [6, 4], 1)
    assert abs(shares[1] - (0.2 + 0.3 / 10)) < 0.01  # a random row may be the current one
    np.testing.assert_allclose(shares[7:11], 0.03, atol=0.005)
    assert shares[6] == shares[11] == 0  # the last row of a trajectory is no transition
    assert draws((1.0, 0, 0, False), [6, 4], 1)[1] == 1.0


def test_distance_is_exact_far_into_large_data():
    """Row numbers beyond 2 ** 24 are not all float32 numbers; distances are."""
    base = 2**25
    data = GoalDataset(
        jnp.zeros((1, 1)), jnp.zeros((3, 1)),
        jnp.array([base, base + 1, base + 2], jnp.int32), jnp.full(3, base + 3, jnp.int32),
    )  # fmt: skip
    how = _GoalDistribution(0, 1, 0, False)
    row, end = (jnp.full(1000, x[0], jnp.int32) for x in (data.row, data.end))
    found = how.draw(data, row, end, jax.random.key(0), discount=GAMMA)
    assert set(np.asarray(found).tolist()) == {base + 1, base + 2}


def test_feed_takes_the_actors_goals_from_the_kind_of_data():
    from conftest import tiny

    config = tiny("gciql", **{"train.batch_size": 4000, "data.chunk": 2})
    spec = Spec((2,), 2, 2, goal=(2,), n_step=2)
    for kind, share in (("stitch", 0.5), ("navigate", 0.0), ("explore", 1.0)):
        feed = BatchSampler.of(config | {"env": f"pointmaze-medium-{kind}-v0"}, spec)
        data = dataset([500, 500])
        drawn = jax.jit(feed.draw)(data, jax.random.key(0))
        row, end = (np.asarray(x)[np.asarray(drawn.start)] for x in (data.row, data.end))
        np.testing.assert_array_equal((drawn.row, drawn.end), (row, end))
        other = (np.asarray(drawn.actor_goal) > 500) != (row > 500)
        assert abs(other.mean() - share / 2) < 0.03, kind
        assert np.asarray(drawn.start).max() == 998 and not np.array_equal(
            drawn.goal, drawn.actor_goal
        )


@pytest.mark.parametrize("whose", ["critic", "actor"])
def test_feed_takes_the_goals_of_critics_and_of_the_policy_from_their_own_settings(whose):
    """One of them has the current row or a geometric distance, the other has neither."""
    from conftest import tiny

    def feed(**changes):
        config = tiny("gciql", **{"train.batch_size": 4000, "data.discount": 0.5, **changes})
        made = BatchSampler.of(config, Spec((2,), 2, 2, goal=(2,), n_step=2))
        drawn = jax.jit(made.draw)(dataset([500, 500]), jax.random.key(0))
        mine, other = np.asarray(drawn.goal), np.asarray(drawn.actor_goal)
        mine, other = (mine, other) if whose == "critic" else (other, mine)
        return mine - np.asarray(drawn.row), other - np.asarray(drawn.row)

    theirs = {"critic": "actor", "actor": "critic"}[whose]
    mine, other = feed(**{f"goals.{whose}": (1.0, 0.0, 0.0), f"goals.{theirs}": (0.0, 1.0, 0.0)})
    assert np.all(mine == 0) and (other > 0).mean() > 0.99
    same = {"goals.critic": (0.0, 1.0, 0.0), "goals.actor": (0.0, 1.0, 0.0)}
    geometric = {f"goals.{whose}_geometric": True, f"goals.{theirs}_geometric": False}
    mine, other = feed(**same, **geometric)
    assert mine.mean() == pytest.approx(2.0, abs=0.1)  # 1 / (1 - discount)
    assert other.mean() > 100
