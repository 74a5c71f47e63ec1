"""Batches, drawn and gathered on the device inside the jitted step."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from qgf_jax.data.chunks import Dataset, rows_at, states_at
from qgf_jax.data.following import NextChunk
from qgf_jax.data.goals import GoalSampler
from qgf_jax.types import Actor, Array, Batch, Obs, Spec


class BatchSampler(NamedTuple):
    """How batches come from a dataset. Both parts are pure, and run on the device."""

    draw: Callable[[Any, Array], Any]
    """(dataset, key) -> which numbers a batch takes; small, so many may be drawn at once"""
    gather: Callable[[Any, Any], Batch]
    """(dataset, what was drawn) -> the batch"""

    @classmethod
    def of(
        cls,
        config: Mapping[str, Any],
        spec: Spec,
        batch_size: int | None = None,
        *,
        blocks: int = 1,
    ) -> "BatchSampler":
        """The sampler of a resolved config; `batch_size` other than the config's, if given.

        `blocks`: how many of one shape a dataset is made of, as a window over a stream is.
        """
        size = batch_size or config["train"]["batch_size"]
        if spec.goal is None:
            asked = NextChunk.wanted(config)
            sampler = _ChunkSampler(size, spec.chunk, spec.return_steps, blocks, asked)
        else:
            sampler = GoalSampler.of(config, spec, size, blocks)
        return cls(sampler.draw, sampler.gather)


class _Starts(NamedTuple):
    """Transitions, and the rows of their observations and of those after their returns: [B] int32."""

    start: Array
    row: Array
    next_row: Array


class _ChunkSampler(NamedTuple):
    """Draws chunks and returns from a `Dataset`."""

    batch_size: int
    chunk: int
    n_step: int
    """Steps of a return."""
    blocks: int = 1
    with_next: bool = False
    """Whether a batch has the data's next chunks."""

    def draw(self, dataset: Dataset, key: Array) -> _Starts:
        """Where the chunks of a batch begin: uniform, with replacement, over all starts."""
        steps = max(self.chunk, self.n_step)
        count = dataset.count_starts(steps, self.blocks)
        drawn = jax.random.randint(key, (self.batch_size,), 0, count)
        return self.locate(dataset, dataset.nth_start(drawn, steps, self.blocks))

    @staticmethod
    def locate(dataset: Dataset, start: Array) -> _Starts:
        """The transitions `start` [B] with their rows.

        Looked up here and not in `gather`: XLA fuses one look-up into the next, and does the first of
        them again for every number of an observation.
        """
        return _Starts(start, rows_at(dataset.row, start), rows_at(dataset.next_row, start))

    def gather(self, dataset: Dataset, drawn: _Starts) -> Batch:
        """The chunks and returns of a draw."""
        start, steps = drawn.start, max(self.chunk, self.n_step)
        actions = jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(dataset.action, i, steps))(start)
        obs, next_obs = (Obs(states_at(dataset.obs, row)) for row in (drawn.row, drawn.next_row))
        weight = rows_at(dataset.weight, start)
        late = weight if dataset.actor_weight is None else rows_at(dataset.actor_weight, start)
        batch = Batch(
            obs=obs,
            action=actions[:, : self.chunk].reshape(len(start), -1),
            reward=rows_at(dataset.reward, start),
            discount=rows_at(dataset.discount, start),
            next_obs=next_obs,
            weight=weight,
            actor=Actor(obs, next_obs, late),
            long_action=actions[:, : self.n_step].reshape(len(start), -1),
        )
        if not self.with_next:
            return batch
        following = NextChunk(dataset.action, start, self.n_step, self.chunk, self.blocks)
        # A return that ends before its trajectory does ends where the transition after it begins.
        goes_on = rows_at(dataset.row, following.start) == drawn.next_row
        chunk_weight = dataset.weight if dataset.actor_weight is None else dataset.actor_weight
        whole = goes_on & (rows_at(chunk_weight, following.start) > 0)
        return following.into(batch, whole)
