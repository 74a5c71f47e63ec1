"""Batches, drawn and gathered on the device inside the jitted step."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from qgf_jax.data import goals
from qgf_jax.data.chunks import Dataset, nth_start, rows_at, starts_of
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.types import Actor, Array, Batch, Obs, Spec


class Starts(NamedTuple):
    """Transitions, and the rows of their observations and of those after their returns: [B] int32."""

    start: Array
    row: Array
    next_row: Array


class BatchSampler(NamedTuple):
    """How batches come from a dataset. Both parts are pure, and run on the device."""

    draw: Callable[[Any, Array], Any]
    """(dataset, key) -> which numbers a batch takes; small, so many may be drawn at once"""
    gather: Callable[[Any, Any], Batch]
    """(dataset, what was drawn) -> the batch"""


def build(
    config: Mapping[str, Any], spec: Spec, batch_size: int | None = None, *, blocks: int = 1
) -> BatchSampler:
    """The sampler of a resolved config; `batch_size` other than the config's, if given.

    `blocks`: how many of one shape a dataset is made of, as a window over a stream is.
    """
    size, data = batch_size or config["train"]["batch_size"], config["data"]
    if spec.goal is None:
        return BatchSampler(
            functools.partial(_draw_starts, steps=spec.steps, batch_size=size, blocks=blocks),
            functools.partial(gather, chunk=spec.chunk, n_step=spec.n_step),
        )
    how = config["goals"]
    name = EnvName.parse(config["env"])
    by_actor = how["actor"] or Family.of(name).policy_goals(name)
    critic = goals.GoalDistribution(*how["critic"], how["critic_geometric"])
    actor = goals.GoalDistribution(*by_actor, how["actor_geometric"])
    return BatchSampler(
        functools.partial(
            goals.draw,
            batch_size=size,
            steps=spec.steps,
            blocks=blocks,
            critic=critic,
            actor=actor,
            discount=data["discount"],
        ),
        functools.partial(
            goals.gather,
            chunk=spec.chunk,
            n_step=spec.return_steps,
            discount=data["discount"],
            negative_reward=how["negative_reward"],
            subgoal_steps=how["subgoal_steps"],
        ),
    )


def gather(dataset: Dataset, drawn: Starts, *, chunk: int, n_step: int = 0) -> Batch:
    """The chunks and returns of a draw. `n_step`: steps of a return; 0: as many as of a chunk."""
    start, n_step = drawn.start, n_step or chunk
    steps = max(chunk, n_step)
    actions = jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(dataset.action, i, steps))(start)
    obs, next_obs = (Obs(rows_at(dataset.obs, row)) for row in (drawn.row, drawn.next_row))
    weight = rows_at(dataset.weight, start)
    late = weight if dataset.actor_weight is None else rows_at(dataset.actor_weight, start)
    return Batch(
        obs=obs,
        action=actions[:, :chunk].reshape(len(start), -1),
        reward=rows_at(dataset.reward, start),
        discount=rows_at(dataset.discount, start),
        next_obs=next_obs,
        weight=weight,
        actor=Actor(obs, next_obs, late),
        long_action=actions[:, :n_step].reshape(len(start), -1),
    )


def _draw_starts(
    dataset: Dataset, key: Array, *, steps: int, batch_size: int, blocks: int = 1
) -> Starts:
    """Where the chunks of a batch begin: uniform, with replacement, over all valid starts."""
    drawn = jax.random.randint(key, (batch_size,), 0, starts_of(dataset, steps, blocks))
    return _locate(dataset, nth_start(dataset, drawn, steps, blocks))


def _locate(dataset: Dataset, start: Array) -> Starts:
    """The transitions `start` [B] with their rows.

    Looked up here and not in `gather`: XLA fuses one look-up into the next, and does the first of
    them again for every number of an observation.
    """
    return Starts(start, rows_at(dataset.row, start), rows_at(dataset.next_row, start))
