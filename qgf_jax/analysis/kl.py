"""How far guided actions are from the reference in nats, and success against that.

Of guidance, E[log p_w - log p_0] with both densities exact, by the log-determinants of the flow's Euler
steps, before the clip (after it the divergence is at most as large). Of best-of-N, log N - (N - 1) / N,
exact where no two candidates are equally good, so a bound where a critic has ties.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qgf_jax.analysis import acting
from qgf_jax.analysis.subject import Subject, interval
from qgf_jax.analysis.table import MEASURES, PICTURES
from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.summary import ALL_TASKS, Row
from qgf_jax.methods.parts import Part
from qgf_jax.methods.table import Method
from qgf_jax.report.plots import weight_axis
from qgf_jax.runs.files import numbers
from qgf_jax.training.weighing import State
from qgf_jax.types import Array

METHODS = ("qgf", "qgf_jacobian")
_MARKS = {"report": "full", "selection": "none"}


def _of_best(candidates: Any) -> Any:
    """The KL divergence in nats of the best of N candidates from one: log N - (N - 1) / N."""
    n = np.asarray(candidates, float)
    return np.log(n) - (n - 1) / n


def _rule_of(arm: Arm) -> str:
    """The rule of a method whose density is known. Raises `UserError` for any other."""
    row = Method.named(arm.method)
    found = Part.named("rule", row.options.get("rule", "one_step"))
    plain = row.sampler == "guided" and {*row.options} == {"rule"} and not arm.options
    if not plain or "q" not in found.needs or found.fields:
        raise UserError(
            f"kl has no density of {arm.sampler.label}: give --methods of qgf, qgf_jacobian and qfql, "
            "without options"
        )
    return found.name


@MEASURES.declare
def _measure(subject: Subject) -> dict[str, Any]:
    """`curves`: by method and weight the divergence; `points`: success of what was played at those."""
    arms, weights = subject.arms(METHODS), subject.weights()
    rules = {label: _rule_of(arm) for label, arm in arms.items()}
    positive = jnp.array([w for w in weights if w > 0])

    def one(_: Any, state: State) -> dict[str, Array]:
        found = {k: state.densities(positive, 1, rule) for k, rule in rules.items()}
        return {label: densities["log_ratio"] for label, densities in found.items()}

    found = subject.measure(one)  # [S, N, W]
    curves = []
    for label, ratios in found.items():
        zero = {"method": label, "weight": 0.0, "kl": dict.fromkeys(("mean", "low", "high"), 0.0)}
        curves.append(zero | {"by_seed": [0.0] * len(ratios), "not_found": 0.0})
        for k, weight in enumerate(w for w in weights if w > 0):
            table = ratios[..., k]
            finite = np.where(np.isfinite(table), table, np.nan)
            curves.append({
                "method": label, "weight": weight, "kl": interval(table),
                "by_seed": numbers(np.nanmean(finite, axis=1)),
                "not_found": float(np.isnan(finite).mean()),
            })  # fmt: skip
    return {"curves": curves, "points": _points(subject.rows, curves)}


def _points(rows: Iterable[Row], curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Success, or the return where there is none, of each row of which the divergence is known."""
    known = {(c["method"], c["weight"]): c["kl"]["mean"] for c in curves}
    points = []
    for row in rows:
        alone = row["best_of"] == 1 and not row["options"]
        if row["method"] in ("reference", "best_of") and not row["options"]:
            divergence = float(_of_best(row["best_of"]))
        elif alone and known.get((row["method"], row["weight"])) is not None:
            divergence = known[row["method"], row["weight"]]
        else:
            continue
        kept = ("task", "method", "best_of", "weight", "split", "selected", "episodes", "seeds")
        score = "success" if row["success"] else "return"
        points.append({k: row[k] for k in kept} | {"kl": divergence, "of": score} | row[score])
    return points


@PICTURES.declare
def _draw(record: Mapping[str, Any]) -> Figure:
    """Left the divergence by weight; right, for each task, success against it."""
    points = record["points"]
    tasks = sorted({point["task"] for point in points})
    tasks = [ALL_TASKS] if ALL_TASKS in tasks else tasks
    figure = Figure(figsize=(4.6 * (1 + len(tasks)), 3.8))
    first, *others = figure.subplots(1, 1 + len(tasks), squeeze=False)[0]
    _by_weight(first, record["curves"])
    for ax, task in zip(others, tasks, strict=True):
        _by_divergence(ax, [point for point in points if point["task"] == task])
        ax.set_title(f"task {'all' if task == ALL_TASKS else task}", fontsize=10)
    figure.suptitle(f"{record['env']}: KL divergence from the reference, of a chunk", fontsize=10)
    figure.tight_layout()
    return figure


def _by_weight(ax: Axes, curves: Sequence[Mapping[str, Any]]) -> None:
    for label, mine in acting.by_method([{**c, **c["kl"]} for c in curves]).items():
        acting.line(ax, mine, "weight", acting.color(label), label, alpha=0.15)
    for n in (4, 16, 64):
        ax.axhline(_of_best(n), color=acting.color("best of 4"), ls=":", lw=1)
        ax.annotate(
            f"best of {n}", (0.02, _of_best(n)), xycoords=("axes fraction", "data"), fontsize=7
        )
    weight_axis(ax, sorted({c["weight"] for c in curves}))
    ax.set(xlabel="guidance weight", ylabel="KL from the reference [nats]")
    ax.set_yscale("symlog", linthresh=0.1)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def _by_divergence(ax: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Filled: report episodes; hollow: selection episodes. Both have their intervals."""
    drawn = set()
    for point in sorted(points, key=lambda p: (p["method"], p["kl"])):
        label = point["method"]
        color = acting.color(label)
        error = [[point["mean"] - point["low"]], [point["high"] - point["mean"]]]
        fill = _MARKS[point["split"]]
        ax.errorbar(
            point["kl"], point["mean"], yerr=np.maximum(0, error), color=color, marker="o",
            fillstyle=fill, ms=6, capsize=2, lw=1, label=None if label in drawn else label,
        )  # fmt: skip
        drawn.add(label)
        name = f"N={point['best_of']}" if label == "best_of" else f"{point['weight']:g}"
        ax.annotate(name, (point["kl"], point["mean"]), xytext=(5, 4), fontsize=7,
                    textcoords="offset points")  # fmt: skip
    ax.set_xscale("symlog", linthresh=0.1)
    ax.set(xlabel="KL from the reference [nats]", ylabel=points[0]["of"] if points else "")
    if points and points[0]["of"] == "success":
        ax.set_ylim(-0.03, 1.06)
    ax.grid(alpha=0.3)
    outside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.02)}
    ax.legend(fontsize=8, title="filled: report\nhollow: selection", title_fontsize=7, **outside)
