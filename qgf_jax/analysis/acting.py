"""Actions of several methods in one state from the same noise, and what is made of them by weight."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from qgf_jax.analysis.subject import Subject, interval
from qgf_jax.evaluation.arms import Arm
from qgf_jax.methods.table import Method
from qgf_jax.report.plots import color_of, weight_axis
from qgf_jax.training.weighing import State
from qgf_jax.types import Array, Params

METHODS = ("qgf", "qgf_jacobian", "qfql")
BEST_OF = (4, 16)
_ORDER = ("qgf", "qgf_jacobian", "qgf_chain", "bptt", "qfql", "jacobian_schedule", "grad_step")
"""Methods have the same colours in all pictures."""
DRAWN = 32
"""Reference actions in a state, of which the best of N is taken in all ways."""


def by_weight(
    subject: Subject,
    arms: Mapping[str, Arm],
    params: Params,
    state: State,
    weights: Sequence[float],
) -> dict[str, Array]:
    """By method the actions [W, D] under `weights` from the state's noise, clipped as in play."""
    found = {}
    for label, arm in arms.items():
        sample = subject.loaded.sampler(arm.method, arm.best_of, arm.options)
        given = jnp.array(weights if Method.named(arm.method).weighted else (0.0,))
        found[label] = jax.lax.map(
            lambda w, sample=sample: sample(params, state.obs, state.key, w), given
        )
    return found


def of_reference(subject: Subject, params: Params, state: State) -> tuple[Array, Array]:
    """The reference's action [D] from the state's noise, and others [M, D], from other noise."""
    sample = subject.loaded.sampler("reference")
    keys = jax.random.split(jax.random.fold_in(state.key, 1), DRAWN)
    zero = jnp.zeros(())
    draw = jax.vmap(lambda key: sample(params, state.obs, key, zero))
    return sample(params, state.obs, state.key, zero), draw(keys)


def curve(
    label: str, weights: Sequence[float], tables: np.ndarray, **more: Any
) -> list[dict[str, Any]]:
    """A row each weight of a method, from `tables` [S, N, W]; one at 0 if it has no weight."""
    weights = weights if tables.shape[-1] == len(weights) else (0.0,)
    return [
        {"method": label, "weight": float(w), **more, **interval(tables[..., k])}
        for k, w in enumerate(weights)
    ]


def level(label: str, table: np.ndarray, **more: Any) -> dict[str, Any]:
    """A row of what has no weight, from `table` [S, N]."""
    return {"method": label, "weight": None, **more, **interval(table)}


def color(label: str) -> str:
    """That of a method, whatever its options; of the best of N, whatever N."""
    name = label.split(":")[0].split(" of ")[0].replace("best_of", "best")
    place = _ORDER.index(name) if name in _ORDER else len(_ORDER)
    return "black" if name == "data" else color_of(name, place)


def plot(ax: Axes, rows: Sequence[Mapping[str, Any]], ls: str = "-", suffix: str = "") -> None:
    """A line with its band each method, and a level for what has no weight."""
    labels = list(dict.fromkeys(row["method"] for row in rows))
    for label in labels:
        mine = [row for row in rows if row["method"] == label and row["mean"] is not None]
        own = color(label)
        if len(mine) == 1:
            ls_level = ":" if label != "best of 16" else "-."
            ax.axhline(mine[0]["mean"], color=own, ls=ls_level, lw=1.2, label=label + suffix)
            continue
        x = [row["weight"] for row in mine]
        ax.plot(x, [row["mean"] for row in mine], color=own, ls=ls, marker=".",
                label=label + suffix)  # fmt: skip
        low, high = ([row[k] for row in mine] for k in ("low", "high"))
        ax.fill_between(x, low, high, color=own, alpha=0.12, lw=0)


def finish(ax: Axes, rows: Sequence[Mapping[str, Any]], ylabel: str) -> None:
    """Axes, grid and legend."""
    weight_axis(ax, sorted({row["weight"] for row in rows if row["weight"] is not None}))
    ax.set(xlabel="guidance weight", ylabel=ylabel)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7)
