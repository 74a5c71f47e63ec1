"""Goals in hindsight: which row of the data a transition is trained to reach.

The definitions are the benchmark's (Park et al., 2025a), on its compact layout; with `chunk` =
`n_step` = 1 they give its rewards and masks. Longer returns end at the goal.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qgf_jax.data.chunks import GoalDataset, nth_start, rows_at, starts_of
from qgf_jax.types import Actor, Array, Batch, Obs


class GoalDistribution(NamedTuple):
    """How goals are drawn: the current row, a later one of the trajectory, or any, by probability."""

    current: float
    trajectory: float
    random: float
    geometric: bool
    """The later row is a geometric number of steps on, else uniform up to the last but one."""


class _Draw(NamedTuple):
    """Transitions [B], their rows, the last ones of their trajectories, and the rows of their goals."""

    start: Array
    row: Array
    end: Array
    goal: Array
    """of the critics"""
    actor_goal: Array
    """of the policy"""


def _draw_goals(
    dataset: GoalDataset,
    row: Array,
    end: Array,
    key: Array,
    how: GoalDistribution,
    *,
    discount: float,
) -> Array:
    """Rows [B] of goals for the transitions of the rows `row` [B], whose trajectories end with `end`."""
    keys = jax.random.split(key, 4)
    shape, last = row.shape, end - 1  # the very last state is never a goal
    if how.geometric:
        steps = jax.random.geometric(keys[0], 1.0 - discount, shape)
        later = row + jnp.minimum(steps, last - row)  # in this order: a large number must not wrap
    else:
        # As a distance from the last: row numbers of large data are not exact in float32.
        reach = last - jnp.minimum(row + 1, last)
        later = last - jnp.round(reach * jax.random.uniform(keys[0], shape)).astype(jnp.int32)
    anywhere = dataset.row[jax.random.randint(keys[1], shape, 0, len(dataset.row))]
    goal = later
    if how.current < 1.0:
        share = how.trajectory / (1.0 - how.current)
        goal = jnp.where(jax.random.uniform(keys[2], shape) < share, later, anywhere)
    return jnp.where(jax.random.uniform(keys[3], shape) < how.current, row, goal)


def draw(
    dataset: GoalDataset,
    key: Array,
    *,
    batch_size: int,
    steps: int,
    critic: GoalDistribution,
    actor: GoalDistribution,
    discount: float,
    blocks: int = 1,
) -> _Draw:
    """A batch's starts, uniform over those with `steps` transitions after them, and its goals."""
    keys = jax.random.split(key, 3)
    drawn = jax.random.randint(keys[0], (batch_size,), 0, starts_of(dataset, steps, blocks))
    start = nth_start(dataset, drawn, steps, blocks)
    row, end = rows_at(dataset.row, start), rows_at(dataset.end, start)
    goals = (
        _draw_goals(dataset, row, end, k, how, discount=discount)
        for k, how in zip(keys[1:], (critic, actor), strict=True)
    )
    return _Draw(start, row, end, *goals)


def gather(
    dataset: GoalDataset,
    drawn: _Draw,
    *,
    chunk: int,
    n_step: int,
    discount: float,
    negative_reward: bool,
    subgoal_steps: int = 0,
) -> Batch:
    """The batch of a draw.

    A return runs over `n_step` steps or to the goal. Being at the goal is worth 1, k steps before it
    discount ** k; with `negative_reward` each step before the goal costs 1. Nothing counts after it.
    `subgoal_steps`: how many steps on the subgoals lie; 0 for none.
    """
    goals = dataset.obs if dataset.goal is None else dataset.goal
    row, end = drawn.row, drawn.end
    left = end - row
    ahead = drawn.goal - row
    reached = (ahead >= 0) & (ahead < jnp.minimum(n_step, left))
    steps = jnp.where(reached, ahead, jnp.minimum(n_step, left))
    powers = jnp.float32(discount) ** steps
    if negative_reward:
        reward = -(1.0 - powers) / (1.0 - discount) if discount < 1 else -steps.astype(jnp.float32)
    else:
        reward = jnp.where(reached, powers, 0.0)
    width = max(chunk, n_step)
    actions = jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(dataset.action, i, width))(
        drawn.start
    )
    flat = actions.reshape(len(drawn.start), -1)
    state = rows_at(dataset.obs, row)
    after_return = rows_at(dataset.obs, row + jnp.minimum(left, n_step))
    after_chunk = rows_at(dataset.obs, row + jnp.minimum(left, chunk))
    goal, actor_goal = rows_at(goals, drawn.goal), rows_at(goals, drawn.actor_goal)
    width_of_one = dataset.action.shape[1]
    batch = Batch(
        obs=Obs(state, goal),
        action=flat[:, : chunk * width_of_one],
        reward=reward,
        discount=jnp.where(reached, 0.0, jnp.float32(discount**n_step)),
        next_obs=Obs(after_return, goal),
        weight=(left >= n_step).astype(jnp.float32),
        actor=Actor(
            obs=Obs(state, actor_goal),
            next_obs=Obs(after_chunk, actor_goal),
            weight=(left >= chunk).astype(jnp.float32),
        ),
        long_action=flat[:, : n_step * width_of_one],
    )
    if not subgoal_steps:
        return batch
    on = jnp.minimum(row + subgoal_steps, end - 1)
    before = (drawn.actor_goal >= row) & (drawn.actor_goal < end)
    towards = jnp.where(before, jnp.minimum(on, drawn.actor_goal), on)
    return batch._replace(subgoal=rows_at(goals, on), subgoal_to_goal=rows_at(goals, towards))
