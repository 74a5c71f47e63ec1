"""The training step: each loss moves its own parameter group."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qgf_jax.core.reductions import fast_sum
from qgf_jax.training.global_batch import batch_loss
from qgf_jax.training.state import TrainState
from qgf_jax.types import Array, Batch, Loss, Metrics, Params


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
    trees: Callable[[Params], Params] = lambda groups: groups,
    still: tuple[Params, Params] = ({}, {}),
) -> tuple[TrainState, Metrics]:
    """One gradient step: each loss moves its own parameter group and no other.

    All losses see the parameters from before the step. Jit it, vmap it over seeds, or pmap it over
    devices with `axis_name`, over which gradients and metrics are averaged. `batch` is then a device's
    part of the global batch, and the result is that of one device (see `global_batch`).

    `lagged_target` moves the target copies towards the parameters from before the step, as the public
    QGF code and its ancestors do, instead of after. `target_every`: target copies that move only in
    every n-th update. Which groups do is up to `tx`, see `make_optimizer`. `keys` are the state's
    `loss_keys`, unless they were made before. `trees` gives parameter groups the form that losses take.
    `still`: further groups and target copies, which losses see and nothing moves.

    Where a loss or a gradient is not finite the state stays as it was but for `step` and `guard`, and
    the metrics are NaN. Raises `UserError` for a batch whose fields differ in length.
    """
    number = state.step + 1
    keys = state.loss_keys(state.step, len(losses)) if keys is None else keys

    def total_loss(params: Params) -> tuple[Array, Metrics]:
        frozen = jax.lax.stop_gradient(params)
        total, metrics = jnp.zeros(()), {}
        for i, (group, loss) in enumerate(losses.items()):
            seen = still[0] | trees(frozen | {group: params[group]})
            targets = still[1] | trees(state.target_params)
            value, info = batch_loss(
                loss, seen, targets, batch, keys[i], axis_name=axis_name, name=group
            )
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
        return params, _moved_targets(state, source, tau, number, target_every), opt_state

    checked = [(grads[group], metrics[f"{group}/loss"]) for group in losses]
    return _if_finite(state, update, checked, metrics)


def _moved_targets(
    state: TrainState, source: Params, tau: float, number: Array, target_every: Mapping[str, int]
) -> Params:
    """The target copies, each a share `tau` of the way to `source`, where update `number` is due."""
    online: Params = {group: source[group] for group in state.target_params}
    target_params: Any = optax.incremental_update(online, state.target_params, tau)
    for group in (g for g, n in target_every.items() if n > 1):
        due, old = number % target_every[group] == 0, state.target_params[group]
        target_params[group] = optax.tree.where(due, target_params[group], old)
    return target_params


def _if_finite(
    old: TrainState,
    update: Callable[[], tuple[Params, Params, Any]],
    checked: Sequence[Any],
    metrics: Metrics,
) -> tuple[TrainState, Metrics]:
    """The next state: updated, or as it was but for its number if one of `checked` is not finite."""
    bad = ~jnp.isfinite(jnp.stack([_checksum(one) for one in checked]))
    sound, guard = old.guard.judge(bad)
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
        default=lambda condition: optax.tree.where(condition, yes(), no()),
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
