"""The training step: each loss moves its own parameter group."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qgf_jax.training.forms import Form, Trees
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
    form: Form | None = None,
    still: tuple[Params, Params] = ({}, {}),
) -> tuple[TrainState, Metrics]:
    """One gradient step: each loss moves its own parameter group and no other.

    All losses see the parameters from before the step. Jit it, vmap it over seeds, or pmap it over
    devices with `axis_name`, over which gradients and metrics are averaged. `batch` is then a device's
    part of the global batch, and the result is that of one device (see `global_batch`).

    `lagged_target` moves the target copies towards the parameters from before the step, as the public
    QGF code and its ancestors do, instead of after. `target_every`: target copies that move only in
    every n-th update. Which groups do is up to `tx`, see `make_optimizer`. `keys` are the state's
    `loss_keys`, unless they were made before. `form`: how the state lies, trees unless given. `still`:
    further groups and target copies, which losses see and nothing moves.

    Where a loss or a gradient is not finite the state stays as it was but for `step` and `guard`, and
    the metrics are NaN. Raises `UserError` for a batch whose fields differ in length.
    """
    number = state.step + 1
    keys = state.loss_keys(state.step, len(losses)) if keys is None else keys
    form = Trees(total_loss(losses, axis_name)) if form is None else form
    grads, metrics = form.gradient(state.params, state.target_params, still, batch, keys)
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)

    def update() -> tuple[Params, Params, Any]:
        updates, opt_state = optax.with_extra_args_support(tx).update(
            grads, state.opt_state, state.params, number=number
        )
        params: Any = optax.apply_updates(state.params, updates)
        source = state.params if lagged_target else params
        due = {group: number % n == 0 for group, n in target_every.items() if n > 1}
        slow = form.follow(state.target_params, source, params, tau, due)
        return params, slow, opt_state

    sums = form.checksums(grads)
    checked = jnp.stack([sums[group] + metrics[f"{group}/loss"] for group in losses])
    return _if_finite(state, update, checked, metrics)


def total_loss(losses: Mapping[str, Loss], axis_name: str | None = None) -> Callable[..., Any]:
    """(params, targets, still, batch, keys [L]) -> the sum [] of all losses, and the metrics.

    Each loss moves its own parameter group alone.
    """

    def total(
        params: Params,
        target_params: Params,
        still: tuple[Params, Params],
        batch: Batch,
        keys: Array,
    ) -> tuple[Array, Metrics]:
        frozen = jax.lax.stop_gradient(params)
        total, metrics = jnp.zeros(()), {}
        for i, (group, loss) in enumerate(losses.items()):
            seen = still[0] | frozen | {group: params[group]}
            targets = still[1] | target_params
            value, info = batch_loss(
                loss, seen, targets, batch, keys[i], axis_name=axis_name, name=group
            )
            total += value
            metrics |= {f"{group}/{name}": x for name, x in ({"loss": value} | info).items()}
        return total, metrics

    return total


def _if_finite(
    old: TrainState,
    update: Callable[[], tuple[Params, Params, Any]],
    checked: Array,
    metrics: Metrics,
) -> tuple[TrainState, Metrics]:
    """The next state: updated, or as it was but for its number if one of `checked` is not finite."""
    sound, guard = old.guard.judge(~jnp.isfinite(checked))
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
