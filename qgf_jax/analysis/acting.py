"""Methods compared by weight: rows of means with their intervals, and lines of these."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from qgf_jax.analysis.subject import interval
from qgf_jax.report.plots import color_of, weight_axis

METHODS = ("qgf", "qgf_jacobian", "qfql")
BEST_OF = (4, 16)
_ORDER = ("qgf", "qgf_jacobian", "qgf_chain", "bptt", "qfql", "jacobian_schedule", "grad_step")
"""Methods have the same colours in all pictures."""

Rows = list[dict[str, Any]]
"""Of a method each, with the mean and its interval, `low` and `high`."""


def rows(label: str, weights: Sequence[float], table: np.ndarray, **more: Any) -> Rows:
    """A row each weight of a method, from `table` [S, N, W]; one at 0 if it has no weight.

    Of [S, N] one row, whose weight is null: of what is no method.
    """
    if table.ndim == 2:
        return [{"method": label, "weight": None, **more, **interval(table)}]
    weights = weights if table.shape[-1] == len(weights) else (0.0,)
    return [
        {"method": label, "weight": float(w), **more, **interval(table[..., k])}
        for k, w in enumerate(weights)
    ]


def color(label: str) -> str:
    """That of a method, whatever its options; of the best of N, whatever N."""
    name = label.split(":")[0].split(" of ")[0].replace("best_of", "best")
    place = _ORDER.index(name) if name in _ORDER else len(_ORDER)
    return "black" if name == "data" else color_of(name, place)


def by_method(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each method that have a mean, in order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["method"], []).extend([row] if row["mean"] is not None else [])
    return found


def line(
    ax: Axes, rows: Sequence[Mapping[str, Any]], x: str, color: str, label: str, **band: Any
) -> None:
    """A line of the rows' means over their `x`, and a band of their intervals."""
    places = [row[x] for row in rows]
    ax.plot(places, [row["mean"] for row in rows], color=color, marker=".", label=label)
    low, high = ([row[k] for row in rows] for k in ("low", "high"))
    ax.fill_between(places, low, high, color=color, **band)


def plot(ax: Axes, rows: Sequence[Mapping[str, Any]], ylabel: str) -> None:
    """A line with its band each method, a level for what has no weight; axes, grid and legend."""
    for label, mine in by_method(rows).items():
        if len(mine) == 1:
            ls = ":" if label != "best of 16" else "-."
            ax.axhline(mine[0]["mean"], color=color(label), ls=ls, lw=1.2, label=label)
        else:
            line(ax, mine, "weight", color(label), label, alpha=0.12, lw=0)
    weight_axis(ax, sorted({row["weight"] for row in rows if row["weight"] is not None}))
    ax.set(xlabel="guidance weight", ylabel=ylabel)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7)
