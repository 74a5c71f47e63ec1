"""The training step, and the program of many steps that is dispatched at once."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from qgf_jax.core.reductions import fast_sum, for_training
from qgf_jax.data import sampling
from qgf_jax.runtime import backend
from qgf_jax.runtime.seeds import over_seeds
from qgf_jax.training import global_batch, vectors
from qgf_jax.types import Array, Batch, Learner, Loss, Metrics, Params, Spec


@flax.struct.dataclass
class NonFiniteGuard:
    """Keeps the state finite: an update from a loss or gradient that is not, is left out."""

    skipped: Array
    """[] int32, updates left out so far"""
    in_a_row: Array
    """[] int32, how many of them just now; from `MOST_SKIPPED` on nothing is updated any more"""
    culprits: Array
    """[] int32, bit i for the i-th loss if that or its gradient was not finite the last time"""

    @classmethod
    def fresh(cls) -> "NonFiniteGuard":
        """Of a state that has met nothing yet."""
        return cls(*(jnp.zeros((), jnp.int32) for _ in range(3)))


MOST_SKIPPED = 10


@flax.struct.dataclass
class TrainState:
    """All that a run is, besides its config and data. With seeds, each leaf has a leading axis."""

    step: Array
    """[] int32, updates done"""
    key: Array
    """what randomness is made of, together with `step`; never changes"""
    params: Params
    target_params: Params
    """slow copies of the groups that a learner lists in `targets`"""
    opt_state: Any
    guard: NonFiniteGuard = flax.struct.field(default_factory=NonFiniteGuard.fresh)


def init_state(
    seed: Array, learner: Learner, tx: optax.GradientTransformation, spec: Spec
) -> TrainState:
    """The state before the first step; `seed` [] int may be traced, so vmap it for many seeds."""
    key = jax.random.key(seed)
    init_key, train_key = jax.random.split(key)
    params = learner.init(init_key, jnp.zeros(spec.obs_dim), jnp.zeros(spec.chunk_dim))
    # Copies, not the same buffers twice: the state is donated as a whole.
    target_params = {name: jax.tree.map(jnp.copy, params[name]) for name in learner.targets}
    return TrainState(jnp.zeros((), jnp.int32), train_key, params, target_params, tx.init(params))


def step_key(state: TrainState, step: Array) -> Array:
    """What the randomness of update number `step` is made of."""
    return jax.random.fold_in(state.key, step)


def loss_keys(state: TrainState, step: Array, losses: int) -> Array:
    """[L] keys of that update's losses."""
    return jax.vmap(lambda i: jax.random.fold_in(step_key(state, step), i))(jnp.arange(losses))


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    losses: Mapping[str, Loss],
    tx: optax.GradientTransformation,
    tau: float,
    lagged_target: bool = False,
    target_every: Mapping[str, int] = {},
    axis_name: str | None = None,
    keys: Array | None = None,
) -> tuple[TrainState, Metrics]:
    """One gradient step: each loss moves its own parameter group and no other.

    All losses see the parameters from before the step. Jit it, vmap it over seeds, or pmap it over
    devices with `axis_name`, over which gradients and metrics are averaged. `batch` is then a device's
    part of the global batch, and the result is that of one device (see `global_batch`).

    `lagged_target` moves the slow copies towards the parameters from before the step, as the public
    QGF code and its ancestors do, instead of after. `target_every`: slow copies that move only in every
    n-th update. Which groups do is up to `tx`, see `delayed`. `keys` are `loss_keys` of the state,
    unless they were made before.

    Where a loss or a gradient is not finite the state stays as it was but for `step` and `guard`, and
    the metrics are NaN.
    """
    number = state.step + 1
    keys = loss_keys(state, state.step, len(losses)) if keys is None else keys

    def total_loss(params: Params) -> tuple[Array, Metrics]:
        frozen = jax.lax.stop_gradient(params)
        total, metrics = jnp.zeros(()), {}
        for i, (group, loss) in enumerate(losses.items()):
            visible = frozen | {group: params[group]}
            with global_batch.divided_over(axis_name), for_training():
                value, info = loss(visible, state.target_params, batch, keys[i])
            total += value
            metrics |= {f"{group}/{name}": x for name, x in ({"loss": value} | info).items()}
        return total, metrics

    grads, metrics = jax.grad(total_loss, has_aux=True)(state.params)
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)

    def update() -> tuple[Params, Params, Any]:
        updates, opt_state = optax.with_extra_args_support(tx).update(
            grads, state.opt_state, state.params, number=number
        )
        params: Any = optax.apply_updates(state.params, updates)
        source = state.params if lagged_target else params
        online: Params = {group: source[group] for group in state.target_params}
        target_params: Any = optax.incremental_update(online, state.target_params, tau)
        for group in (g for g, n in target_every.items() if n > 1):
            due, old = number % target_every[group] == 0, state.target_params[group]
            target_params[group] = _if(due, target_params[group], old)
        return params, target_params, opt_state

    checked = [(grads[group], metrics[f"{group}/loss"]) for group in losses]
    return if_finite(state, update, checked, metrics)


def if_finite(
    old: TrainState,
    update: Callable[[], tuple[Params, Params, Any]],
    checked: Sequence[Any],
    metrics: Metrics,
) -> tuple[TrainState, Metrics]:
    """The next state: updated, or as it was but for its number if one of `checked` is not finite."""
    bad = ~jnp.isfinite(jnp.stack([_checksum(one) for one in checked]))
    sound = ~bad.any() & (old.guard.in_a_row < MOST_SKIPPED)
    guard = NonFiniteGuard(
        old.guard.skipped + ~sound,
        jnp.where(sound, 0, old.guard.in_a_row + 1),
        jnp.where(bad.any(), (bad << jnp.arange(len(bad))).sum(), old.guard.culprits),
    )
    kept = _choose(sound, update, lambda: (old.params, old.target_params, old.opt_state))
    metrics = jax.tree.map(lambda x: jnp.where(sound, x, jnp.nan), metrics)
    return TrainState(old.step + 1, old.key, *kept, guard), metrics


def _choose(condition: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`yes()` or `no()`.

    A CPU computes one of them. An accelerator computes both and selects: for a conditional the host
    would wait in every update, and launch what is inside one operation at a time.
    """
    return jax.lax.platform_dependent(
        condition,
        cpu=lambda condition: jax.lax.cond(condition, yes, no),
        default=lambda condition: _if(condition, yes(), no()),
    )


def _checksum(tree: Any) -> Array:
    """[]: finite only if each number is, the sum of each row, and of a vector's squares.

    Squares because Adam's moments must be finite too; and because XLA would take a plain sum over a
    vector that is put together from layers apart, into one for each. Matrices are summed as they are:
    on a CPU squares would cost a pass over each. So where updates are not on vectors, a gradient
    between 1e19 and 1e38 counts as finite.
    """
    leaves = [x * x if x.ndim == 1 else x for x in jax.tree.leaves(tree)]
    sums = [jnp.ravel(fast_sum(x) if x.ndim else x) for x in leaves]
    return jnp.concatenate(sums).sum()


def clip_groups(grads: Any, norm: float) -> Any:
    """Each parameter group's gradient scaled down to the global norm `norm`, by itself."""
    clip = optax.clip_by_global_norm(norm)
    return {name: clip.update(group, optax.EmptyState())[0] for name, group in grads.items()}


def make_optimizer(config: Mapping[str, Any]) -> optax.GradientTransformation:
    """Adam works number by number, so one over all groups equals one for each; a clip does not."""
    options = config["optimizer"]
    adam = optax.adam(options["learning_rate"])
    if not (norm := options["clip_norm"]):
        return adam
    return optax.chain(optax.stateless(lambda grads, _: clip_groups(grads, norm)), adam)


def delayed(
    tx: optax.GradientTransformation, every: Mapping[str, int]
) -> optax.GradientTransformation:
    """`tx`, but a group of `every` moves only in every n-th update (Fujimoto et al., 2018, 5.2).

    Its moments and its count of updates stay as they are in between. Where no group waits, it is `tx`.
    """
    waiting = {group: n for group, n in every.items() if n > 1}
    if not waiting:
        return tx
    parts: dict[Hashable, Any] = {str(n): _in_every(n, tx) for n in {1, *waiting.values()}}
    return optax.partition(parts, lambda params: {g: str(waiting.get(g, 1)) for g in params})


def _in_every(n: int, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` in every `n`-th update by the argument `number`, which counts from 1; else nothing."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        due = extra["number"] % n == 0
        updates, after = tx.update(updates, state, params)
        return _if(due, updates, jax.tree.map(jnp.zeros_like, updates)), _if(due, after, state)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _if(condition: Array, yes: Any, no: Any) -> Any:
    """The tree `yes` or the tree `no`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


class Trainer(NamedTuple):
    """What training runs. The state that it takes and gives always has a leading axis of seeds."""

    init: Callable[[Array], TrainState]
    """(seeds [S] int) -> state"""
    run: Callable[..., tuple[TrainState, Metrics]]
    """(state, dataset, num_steps) -> (state, metrics [S], means over the steps that were not left out).

    Donates the state, once compiled."""
    evaluate: Callable[[TrainState, Any], Metrics]
    """(state, dataset) -> the losses [S] on one batch of `dataset`, nothing learned"""


def make_programs(
    learner: Learner,
    config: Mapping[str, Any],
    spec: Spec,
    *,
    blocks: int = 1,
    shards: int = 1,
    axis_name: str | None = None,
    constrain: Callable[[Batch], Batch] = lambda batch: batch,
    packed: bool | None = None,
) -> Trainer:
    """The pure programs that train `learner` under a resolved config, not compiled.

    Sampling is part of the step, so the host does nothing between two dispatches. The batch is drawn in
    `shards` equal parts, each from a piece of the dataset of its own: with `axis_name` each place on
    that axis runs this program on its own piece, without one the pieces are stacked on the leading
    axis of the dataset and `constrain` may say where the batch lies. The batches are the same. A
    dataset, or each piece, is made of `blocks` of one shape. `packed`: whether updates work on vectors
    (see `vectors`), which changes neither what goes in nor the form of what comes out; `None`: where
    the devices are accelerators.
    """
    tx = delayed(make_optimizer(config), learner.every)
    step = functools.partial(
        train_step,
        tx=tx,
        tau=config["optimizer"]["tau"],
        lagged_target=config["optimizer"]["lagged_target"],
        target_every=learner.target_every,
        axis_name=axis_name,
    )
    feed = sampling.build(config, spec, config["train"]["batch_size"] // shards, blocks=blocks)
    whole = sampling.build(config, spec)

    def key_of(state: TrainState, step: Array, stream: int) -> Array:
        # A step folds the number of each loss into the same key; a stream has a number of its own.
        return jax.random.fold_in(step_key(state, step), stream)

    def draw(dataset: Any, key: Array) -> Any:
        if shards == 1:
            return feed.draw(dataset, key)
        if axis_name is not None:
            return feed.draw(dataset, jax.random.fold_in(key, jax.lax.axis_index(axis_name)))
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(shards))
        return jax.vmap(feed.draw)(dataset, keys)

    def gather(dataset: Any, drawn: Any) -> Batch:
        if shards == 1 or axis_name is not None:
            return feed.gather(dataset, drawn)
        parts = jax.vmap(feed.gather)(dataset, drawn)
        return constrain(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts))

    def run(state: TrainState, dataset: Any, num_steps: int) -> tuple[TrainState, Metrics]:
        # Drawn for all steps at once, each from its own step's key: a hash is a loop of small
        # kernels on a CPU, and costs the same for one step as for a hundred.
        steps = state.step + jnp.arange(num_steps)
        drawn = jax.vmap(lambda i: draw(dataset, key_of(state, i, _BATCH)))(steps)
        keys = jax.vmap(lambda i: loss_keys(state, i, len(learner.losses)))(steps)
        losses, unpack = learner.losses, None
        if backend.launches() if packed is None else packed:
            state, trees, unpack = vectors.pack(state, tx)
            losses = {g: vectors.on_vectors(loss, trees) for g, loss in losses.items()}
        names: list[str] = []

        def update(state: TrainState, mine: Any) -> tuple[TrainState, Array]:
            drawn, keys = mine
            state, metrics = step(state, gather(dataset, drawn), losses=losses, keys=keys)
            names[:] = metrics
            return state, jnp.stack([*metrics.values()])

        state, metrics = jax.lax.scan(update, state, (drawn, keys))
        means = jnp.nanmean(metrics, axis=0)
        return unpack(state) if unpack else state, dict(zip(names, means, strict=True))

    def evaluate(state: TrainState, dataset: Any) -> Metrics:
        batch = whole.gather(dataset, whole.draw(dataset, key_of(state, state.step, _VALIDATION)))
        metrics = {}
        for i, (group, loss) in enumerate(learner.losses.items()):
            key = jax.random.fold_in(state.key, i)
            value, _ = loss(state.params, state.target_params, batch, key)
            metrics[f"{group}/loss"] = value
        return metrics

    return Trainer(
        init=jax.vmap(lambda seed: init_state(seed, learner, tx, spec)),
        run=lambda state, dataset, num_steps: over_seeds(
            lambda one: run(one, dataset, num_steps), state
        ),
        evaluate=lambda state, dataset: over_seeds(lambda one: evaluate(one, dataset), state),
    )


def make_trainer(
    learner: Learner, config: Mapping[str, Any], spec: Spec, *, blocks: int = 1
) -> Trainer:
    """The programs compiled for one device; for several see `parallel.make_trainer`."""
    programs = make_programs(learner, config, spec, blocks=blocks)
    return Trainer(
        init=jax.jit(programs.init),
        run=jax.jit(programs.run, donate_argnums=0, static_argnums=2),
        evaluate=jax.jit(programs.evaluate),
    )


_BATCH, _VALIDATION = 2**31 - 1, 2**31 - 2  # no learner has so many losses
