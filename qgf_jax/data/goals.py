"""Goals in hindsight: which row of the data a transition is trained to reach.

The definitions are the benchmark's (Park et al., 2025a), on its compact layout; with `chunk` =
`n_step` = 1 they give its rewards and masks. Longer returns end at the goal.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qgf_jax.data.chunks import GoalDataset, rows_at, states_at
from qgf_jax.data.following import NextChunk
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.types import Actor, Array, Batch, Obs, Spec


class _GoalDistribution(NamedTuple):
    """How goals are drawn: the current row, a later one of the trajectory, or any, by probability."""

    current: float
    trajectory: float
    random: float
    geometric: bool
    """The later row is a geometric number of steps on, else uniform up to the last but one."""

    def draw(
        self, dataset: GoalDataset, row: Array, end: Array, key: Array, *, discount: float
    ) -> Array:
        """Rows [B] of goals for the transitions of the rows `row` [B].

        Their trajectories end with the rows `end` [B]; the very last state is never a goal.
        """
        keys = jax.random.split(key, 4)
        shape, last = row.shape, end - 1
        if self.geometric:
            steps = jax.random.geometric(keys[0], 1.0 - discount, shape)
            # In this order: a large number must not wrap.
            later = row + jnp.minimum(steps, last - row)
        else:
            # As a distance from the last: row numbers of large data are not exact in float32.
            reach = last - jnp.minimum(row + 1, last)
            later = last - jnp.round(reach * jax.random.uniform(keys[0], shape)).astype(jnp.int32)
        anywhere = dataset.row[jax.random.randint(keys[1], shape, 0, len(dataset.row))]
        goal = later
        if self.current < 1.0:
            share = self.trajectory / (1.0 - self.current)
            goal = jnp.where(jax.random.uniform(keys[2], shape) < share, later, anywhere)
        return jnp.where(jax.random.uniform(keys[3], shape) < self.current, row, goal)


class _Draw(NamedTuple):
    """Transitions [B], their rows, the last ones of their trajectories, and the rows of their goals."""

    start: Array
    row: Array
    end: Array
    goal: Array
    """of the critics"""
    actor_goal: Array
    """of the policy"""


class GoalSampler(NamedTuple):
    """Draws batches with goals from a `GoalDataset`."""

    batch_size: int
    chunk: int
    n_step: int
    """Steps of a return, unless it ends at the goal."""
    critic: _GoalDistribution
    actor: _GoalDistribution
    discount: float
    negative_reward: bool
    """Whether each step before the goal costs 1; else being at the goal is worth 1."""
    subgoal_steps: int = 0
    """How many steps on the subgoals lie; 0: there are none."""
    blocks: int = 1
    """How many of one shape a dataset is made of."""
    with_next: bool = False
    """Whether a batch has the data's next chunks."""

    @classmethod
    def of(
        cls, config: Mapping[str, Any], spec: Spec, batch_size: int, blocks: int = 1
    ) -> "GoalSampler":
        """The sampler of a resolved config."""
        how, name = config["goals"], EnvName.parse(config["env"])
        by_actor = how["actor"] or Family.of(name).policy_goals(name)
        return cls(
            batch_size=batch_size,
            chunk=spec.chunk,
            n_step=spec.return_steps,
            critic=_GoalDistribution(*how["critic"], how["critic_geometric"]),
            actor=_GoalDistribution(*by_actor, how["actor_geometric"]),
            discount=config["data"]["discount"],
            negative_reward=how["negative_reward"],
            subgoal_steps=how["subgoal_steps"],
            blocks=blocks,
            with_next=NextChunk.wanted(config),
        )

    def draw(self, dataset: GoalDataset, key: Array) -> _Draw:
        """A batch's starts, uniform over those with enough transitions after them, and its goals."""
        keys, steps = jax.random.split(key, 3), max(self.chunk, self.n_step)
        drawn = jax.random.randint(
            keys[0], (self.batch_size,), 0, dataset.count_starts(steps, self.blocks)
        )
        start = dataset.nth_start(drawn, steps, self.blocks)
        row, end = rows_at(dataset.row, start), rows_at(dataset.end, start)
        goals = (
            how.draw(dataset, row, end, k, discount=self.discount)
            for k, how in zip(keys[1:], (self.critic, self.actor), strict=True)
        )
        return _Draw(start, row, end, *goals)

    def gather(self, dataset: GoalDataset, drawn: _Draw) -> Batch:
        """The batch of a draw.

        A return runs over `n_step` steps or to the goal. Being at the goal is worth 1, k steps before it
        discount ** k; with `negative_reward` each step before the goal costs 1. Nothing counts after it.
        """
        chunk, n_step, discount = self.chunk, self.n_step, self.discount
        goals = dataset.obs if dataset.goal is None else dataset.goal
        row, end = drawn.row, drawn.end
        left = end - row
        ahead = drawn.goal - row
        reached = (ahead >= 0) & (ahead < jnp.minimum(n_step, left))
        steps = jnp.where(reached, ahead, jnp.minimum(n_step, left))
        reward = self._reward(reached, steps)
        width = max(chunk, n_step)
        actions = jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(dataset.action, i, width))(
            drawn.start
        )
        flat = actions.reshape(len(drawn.start), -1)
        state = states_at(dataset.obs, row)
        after_return = states_at(dataset.obs, row + jnp.minimum(left, n_step))
        after_chunk = states_at(dataset.obs, row + jnp.minimum(left, chunk))
        goal, actor_goal = states_at(goals, drawn.goal), states_at(goals, drawn.actor_goal)
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
        if self.with_next:
            following = NextChunk(dataset.action, drawn.start, n_step, chunk, self.blocks)
            batch = following.into(batch, left >= n_step + chunk)
        return self._with_subgoals(batch, goals, drawn) if self.subgoal_steps else batch

    def _reward(self, reached: Array, steps: Array) -> Array:
        """[B], of returns of `steps` [B], which end at the goal where it is `reached` [B]."""
        powers = jnp.float32(self.discount) ** steps
        if not self.negative_reward:
            return jnp.where(reached, powers, 0.0)
        if self.discount < 1:
            return -(1.0 - powers) / (1.0 - self.discount)
        return -steps.astype(jnp.float32)

    def _with_subgoals(self, batch: Batch, goals: Any, drawn: _Draw) -> Batch:
        """The batch with the goals `subgoal_steps` on, or the policy's own where that comes first."""
        row, end = drawn.row, drawn.end
        on = jnp.minimum(row + self.subgoal_steps, end - 1)
        before = (drawn.actor_goal >= row) & (drawn.actor_goal < end)
        towards = jnp.where(before, jnp.minimum(on, drawn.actor_goal), on)
        return batch._replace(
            subgoal=states_at(goals, on), subgoal_to_goal=states_at(goals, towards)
        )
