"""The optimiser of a run: Adam, clipped group by group, over groups that may wait."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax


def clip_groups(grads: Any, norm: float) -> Any:
    """Each parameter group's gradient scaled down to the global norm `norm`, by itself."""
    clip = optax.clip_by_global_norm(norm)
    return {name: clip.update(group, optax.EmptyState())[0] for name, group in grads.items()}


def by_group(params: Any, of: Callable[[str], Any]) -> Any:
    """`of` each parameter group's name, a prefix of the tree `params`."""
    return {group: of(group) for group in params}


def make_optimizer(
    config: Mapping[str, Any],
    every: Mapping[str, int] = {},
    *,
    clip: Callable[[Any, float], Any] = clip_groups,
    labels: Callable[[Any, Callable[[str], Any]], Any] = by_group,
) -> optax.GradientTransformation:
    """The optimiser of a resolved config; a group of `every` moves only in every n-th update.

    Adam works number by number, so one over all groups equals one for each; a clip does not: `clip`.
    Nor do groups that wait: `labels`. Both are those of the form in which parameters lie.
    """
    options = config["optimizer"]
    tx = optax.adam(options["learning_rate"])
    if norm := options["clip_norm"]:
        tx = optax.chain(optax.stateless(lambda grads, _: clip(grads, norm)), tx)
    return _delayed(tx, every, labels)


def _delayed(
    tx: optax.GradientTransformation,
    every: Mapping[str, int],
    labels: Callable[..., Any] = by_group,
) -> optax.GradientTransformation:
    """`tx`, but a group of `every` moves only in every n-th update (Fujimoto et al., 2018, 5.2).

    Its moments and its count of updates stay as they are in between. Where no group waits, it is `tx`.
    """
    waiting = {group: n for group, n in every.items() if n > 1}
    if not waiting:
        return tx
    parts: dict[Hashable, Any] = {str(n): _in_every(n, tx) for n in {1, *waiting.values()}}
    return optax.partition(
        parts, lambda params: labels(params, lambda group: str(waiting.get(group, 1)))
    )


def _in_every(n: int, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx` in every `n`-th update by the argument `number`, which counts from 1; else nothing."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        due = extra["number"] % n == 0
        updates, after = tx.update(updates, state, params)
        still = jax.tree.map(jnp.zeros_like, updates)
        return optax.tree.where(due, updates, still), optax.tree.where(due, after, state)

    return optax.GradientTransformationExtraArgs(tx.init, update)
