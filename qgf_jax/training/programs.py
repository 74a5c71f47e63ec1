"""The programs of a run: many training steps that are dispatched at once, and validation."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qgf_jax.data.sampling import BatchSampler
from qgf_jax.runtime.seeds import over_seeds
from qgf_jax.training.forms import Form, Trees
from qgf_jax.training.global_batch import batch_loss
from qgf_jax.training.optimizers import make_optimizer
from qgf_jax.training.stacks import Stacked
from qgf_jax.training.state import TrainState
from qgf_jax.training.step import total_loss, train_step
from qgf_jax.types import Array, Batch, Learner, Metrics, Spec


class Trainer(NamedTuple):
    """What training runs. The state that it takes and gives always has a leading axis of seeds."""

    init: Callable[[Array], TrainState]
    """(seeds [S] int) -> state"""
    run: Callable[..., tuple[TrainState, Metrics]]
    """(state, dataset, num_steps) -> (state, metrics [S], means over the steps that were not left out).

    Donates the state, once compiled."""
    evaluate: Callable[[TrainState, Any], Metrics]
    """(state, dataset) -> the losses [S] on one batch of `dataset`, nothing learned"""
    seeds: np.ndarray
    """[S] uint32, what `init` takes: `seed`, `seed` + 1, … of the config, each below 2**32"""

    @classmethod
    def of(
        cls, learner: Learner, config: Mapping[str, Any], spec: Spec, *, blocks: int = 1
    ) -> "Trainer":
        """The programs compiled for one device; for several see `DeviceLayout.make_trainer`."""
        programs = cls.uncompiled(learner, config, spec, blocks=blocks)
        return cls(
            init=jax.jit(programs.init),
            run=jax.jit(programs.run, donate_argnums=0, static_argnums=2),
            evaluate=jax.jit(programs.evaluate),
            seeds=programs.seeds,
        )

    @classmethod
    def uncompiled(
        cls,
        learner: Learner,
        config: Mapping[str, Any],
        spec: Spec,
        *,
        blocks: int = 1,
        shards: int = 1,
        axis_name: str | None = None,
        constrain: Callable[[Batch], Batch] = lambda batch: batch,
        packed: bool | None = None,
    ) -> "Trainer":
        """The pure programs that train `learner` under a resolved config.

        Sampling is part of the step, so the host does nothing between two dispatches. The batch is
        drawn in `shards` equal parts, each from a piece of the dataset of its own: with `axis_name`
        each place on that axis runs this program on its own piece, without one the pieces are stacked
        on the leading axis of the dataset and `constrain` may say where the batch lies. The batches are
        the same. A dataset, or each piece, is made of `blocks` of one shape. `packed`: whether updates
        work on a state in the form of accelerators (see `forms`), which changes neither what goes in nor
        the form of what comes out; `None`: where the devices are accelerators.
        """
        tx = make_optimizer(config, learner.every)
        step = functools.partial(
            train_step,
            losses=learner.losses,
            tau=config["optimizer"]["tau"],
            lagged_target=config["optimizer"]["lagged_target"],
            target_every=learner.target_every,
            axis_name=axis_name,
        )
        feed = BatchSampler.of(config, spec, config["train"]["batch_size"] // shards, blocks=blocks)
        batches = _Batches(feed, shards, axis_name, constrain)
        run = functools.partial(
            _run,
            step=step,
            batches=batches,
            learner=learner,
            tx_of=functools.partial(make_optimizer, config, learner.every),
            packed=_launches() if packed is None else packed,
        )
        validate = functools.partial(_validate, learner, BatchSampler.of(config, spec))
        return cls(
            init=jax.vmap(lambda seed: TrainState.init(seed, learner, tx, spec)),
            run=lambda state, dataset, num_steps: over_seeds(
                lambda one: run(one, dataset, num_steps), state
            ),
            evaluate=lambda state, dataset: over_seeds(lambda one: validate(one, dataset), state),
            seeds=_seeds_of(config),
        )


def _seeds_of(config: Mapping[str, Any]) -> np.ndarray:
    return np.uint32(config["seed"]) + np.arange(config["seeds"], dtype=np.uint32)


def _launches() -> bool:
    """Whether the devices are accelerators, on which every operation costs a launch."""
    return jax.default_backend() != "cpu"


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Batches that are drawn in `shards` equal parts, see `Trainer.uncompiled`."""

    feed: BatchSampler
    shards: int
    axis_name: str | None
    constrain: Callable[[Batch], Batch]

    def draw(self, dataset: Any, key: Array) -> Any:
        """The places of a batch in `dataset`."""
        if self.shards == 1:
            return self.feed.draw(dataset, key)
        if self.axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(self.axis_name))
            return self.feed.draw(dataset, key)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(self.shards))
        return jax.vmap(self.feed.draw)(dataset, keys)

    def gather(self, dataset: Any, drawn: Any) -> Batch:
        """The batch at these places."""
        if self.shards == 1 or self.axis_name is not None:
            return self.feed.gather(dataset, drawn)
        parts = jax.vmap(self.feed.gather)(dataset, drawn)
        return self.constrain(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts))


def _run(
    state: TrainState,
    dataset: Any,
    num_steps: int,
    *,
    step: Any,
    batches: _Batches,
    learner: Learner,
    tx_of: Callable[..., optax.GradientTransformation],
    packed: bool,
) -> tuple[TrainState, Metrics]:
    """`num_steps` updates of one seed, and the means of their metrics."""
    # Drawn for all steps at once, each from its own step's key: a hash is a loop of small
    # kernels on a CPU, and costs the same for one step as for a hundred.
    steps = state.step + jnp.arange(num_steps)
    drawn = jax.vmap(lambda i: batches.draw(dataset, _stream_key(state, i, _BATCH)))(steps)
    keys = jax.vmap(lambda i: state.loss_keys(i, len(step.keywords["losses"])))(steps)
    # What stands still is no part of what the steps carry on: no gradient, moment or average is made.
    moving, still = state.split(learner.still)
    total = total_loss(learner.losses, batches.axis_name)
    form: Form = Trees(total)
    if packed:
        first = jax.eval_shape(batches.gather, dataset, jax.tree.map(lambda x: x[0], drawn))
        form = Stacked.of(total, moving, still, first, keys[0], every=learner.every)
    tx, names = tx_of(clip=form.clip, labels=form.labels), list[str]()

    def update(state: TrainState, inputs: Any) -> tuple[TrainState, Array]:
        drawn, keys = inputs
        batch = batches.gather(dataset, drawn)
        state, metrics = step(state, batch, keys=keys, form=form, still=still, tx=tx)
        names[:] = metrics
        return state, jnp.stack([*metrics.values()])

    last, metrics = jax.lax.scan(update, form.pack(moving, still), (drawn, keys))
    means = jnp.nanmean(metrics, axis=0)
    return form.unpack(last).joined(still), dict(zip(names, means, strict=True))


def _validate(learner: Learner, feed: BatchSampler, state: TrainState, dataset: Any) -> Metrics:
    """Each loss of one seed on one batch, nothing learned."""
    key = _stream_key(state, state.step, _VALIDATION)
    batch = feed.gather(dataset, feed.draw(dataset, key))
    metrics = {}
    for i, (group, loss) in enumerate(learner.losses.items()):
        key = jax.random.fold_in(state.key, i)
        groups = state.params, state.target_params
        metrics[f"{group}/loss"], _ = batch_loss(loss, *groups, batch, key, name=group)
    return metrics


def _stream_key(state: TrainState, step: Array, stream: int) -> Array:
    """What a `stream` of random numbers is made of in update number `step`."""
    # A step folds the number of each loss into the same key; a stream has a number of its own.
    return jax.random.fold_in(state.step_key(step), stream)


_BATCH, _VALIDATION = 2**31 - 1, 2**31 - 2  # no learner has so many losses
