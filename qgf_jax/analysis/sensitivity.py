"""How success and Q depend on the weight (Zhou et al., 2026, Fig. 20), and Q on the steps of the flow.

Success is that of the run's own episodes; Q is that which guided actions reach in states of the data, by
the critic that guides. Between weights success is asked for: the range that loses little of the best.
"""

import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qgf_jax.analysis import acting
from qgf_jax.analysis.subject import Subject
from qgf_jax.analysis.table import MEASURES, PICTURES
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.summary import ALL_TASKS
from qgf_jax.methods.table import Method
from qgf_jax.report.plots import weight_axis
from qgf_jax.training.weighing import State
from qgf_jax.types import Array, Params

METHODS = ("qgf", "qgf_jacobian")
STEPS = (1, 2, 5, 10, 20, 40)
"""Of the flow; the run's own number is among those that are measured, whatever it is."""
_LOSS = 0.1
"""A weight within this much of the best success is as good."""

_SPLITS = {
    "report": {"fillstyle": "full", "ls": "none"},
    "selection": {"fillstyle": "none", "ls": "-"},
}


def _plateau(weights: Sequence[float], scores: Sequence[float]) -> list[float]:
    """[lowest, highest] of the weights around the best whose scores are within 0.1 of it."""
    near = [score >= max(scores) - _LOSS for score in scores]
    low = high = int(np.argmax(scores))
    while low > 0 and near[low - 1]:
        low -= 1
    while high + 1 < len(near) and near[high + 1]:
        high += 1
    return [weights[low], weights[high]]


@MEASURES.declare
def _measure(subject: Subject) -> dict[str, Any]:
    """`success`, from episodes; `q` by weight; `steps`, Q by the flow's steps at one weight."""
    arms, weights = subject.arms(METHODS), subject.weights()
    success = _episodes(subject, arms)
    plateaus = _plateaus(success)
    at = _middle(weights, plateaus)
    steps = sorted({*STEPS, subject.num_steps})
    first = next(iter(arms.values()))
    by_steps = {str(n): _with_steps(first, n) for n in steps}
    unguided = {f"reference/{n}": Arm("reference", 0.0, 1, (("num_steps", n),)) for n in steps}

    def one(params: Params, state: State) -> dict[str, Array]:
        q = jax.vmap(state.q())
        own, _ = subject.reference(params, state)
        actions = subject.actions(arms, params, state, weights)
        few = subject.actions(by_steps, params, state, (at,))
        few |= subject.actions(unguided, params, state, (0.0,))
        found = {f"q/{name}": q(x) - state.q()(own) for name, x in actions.items()}
        return found | {f"steps/{name}": (q(x) - state.q()(own))[0] for name, x in few.items()}

    q, of_steps = [], []
    for name, table in subject.measure(one).items():
        what, _, label = name.partition("/")
        if what == "q":
            q += acting.rows(label, weights, table)
        else:
            who, _, count = label.rpartition("/")
            (row,) = acting.rows(who or next(iter(arms)), (), table, steps=int(count))
            of_steps.append(row | {"weight": 0.0 if who else at})
    of_steps.sort(key=lambda row: (row["method"], row["steps"]))
    return {"success": success, "plateaus": plateaus, "q": q, "steps": of_steps}


def _with_steps(arm: Arm, steps: int) -> Arm:
    Method.named(arm.method).check_option("num_steps", steps)
    options = {**dict(arm.options), "num_steps": steps}
    return arm._replace(options=tuple(sorted(options.items())))


def _episodes(subject: Subject, arms: Mapping[str, Arm]) -> list[dict[str, Any]]:
    """A row for the run's episodes of each of these methods that has a weight, and each weight."""
    found: list[dict[str, Any]] = []
    for row in subject.rows:
        arm = Arm.of(row)
        label = arm.sampler.label
        if label in arms and Method.named(arm.method).weighted:
            score = "success" if row["success"] else "return"
            kept = ("task", "weight", "split", "episodes", "seeds")
            found.append({"method": label, "of": score, **{k: row[k] for k in kept}, **row[score]})
    return found


def _plateaus(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where success of the selection episodes is flat, by task and method."""
    order = operator.itemgetter("task", "method", "weight")
    rows = sorted((r for r in rows if r["split"] == "selection"), key=order)
    plateaus = []
    for (task, label), group in itertools.groupby(rows, operator.itemgetter("task", "method")):
        mine = list(group)
        if mine[0]["of"] == "success":
            scores, weights = [r["mean"] for r in mine], [r["weight"] for r in mine]
            best = weights[int(np.argmax(scores))]
            flat = _plateau(weights, scores)
            plateaus.append({"task": task, "method": label, "best": best, "within": flat})
    return plateaus


def _middle(weights: Sequence[float], plateaus: Sequence[Mapping[str, Any]]) -> float:
    """The best weight of the first method; the middle one where none was played."""
    above = [w for w in weights if w > 0]
    best = plateaus[0]["best"] if plateaus else 0.0
    return best or above[len(above) // 2]


@PICTURES.declare
def _draw(record: Mapping[str, Any]) -> Figure:
    """Success and Q by weight, Q by the steps of the flow."""
    figure = Figure(figsize=(13.2, 3.8))
    left, middle, right = figure.subplots(1, 3)
    _draw_success(left, record["success"])
    acting.plot(middle, record["q"], "gain of Q over the reference [return]")
    _draw_steps(right, record["steps"])
    figure.suptitle(f"{record['env']}: what weight and steps of the flow do", fontsize=10)
    figure.tight_layout()
    return figure


def _draw_steps(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for label, mine in acting.by_method(rows).items():
        weight = next((row["weight"] for row in mine), 0.0)
        text = label + f", weight {weight:g}" * bool(weight)
        mine.sort(key=lambda row: row["steps"])
        acting.line(ax, mine, "steps", acting.color(label), text, alpha=0.15)
    counts = sorted({row["steps"] for row in rows})
    ax.set_xscale("log")
    ax.set_xticks(counts, [f"{n:g}" for n in counts])
    ax.minorticks_off()
    ax.set(xlabel="steps of the flow", ylabel="gain of Q over the reference [return]")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)


def _draw_success(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Of all tasks together where there are such rows; hollow: selection, filled: report."""
    tasks = {row["task"] for row in rows}
    shown = {ALL_TASKS} if ALL_TASKS in tasks else tasks
    rows = sorted((row for row in rows if row["task"] in shown), key=_line_of)
    for (label, task, _), group in itertools.groupby(rows, _line_of):
        mine = list(group)
        split = mine[0]["split"]
        text = f"{label}, task {task}, {split}" if len(shown) > 1 else f"{label}, {split}"
        _draw_episodes(ax, mine, color=acting.color(label), label=text, **_SPLITS[split])
    if rows:
        weight_axis(ax, sorted({row["weight"] for row in rows}))
        ax.legend(fontsize=7)
    else:
        ax.text(0.5, 0.5, "no episodes", ha="center", transform=ax.transAxes)
    ax.set(xlabel="guidance weight", ylabel=rows[0]["of"] if rows else "success")
    ax.grid(alpha=0.3)


def _line_of(row: Mapping[str, Any]) -> tuple[str, int, bool]:
    """What the rows of one line have in common, in the order of lines: selection before report."""
    return row["method"], row["task"], row["split"] == "report"


def _draw_episodes(ax: Axes, rows: list[Mapping[str, Any]], **style: Any) -> None:
    """Means with their intervals, by weight."""
    rows.sort(key=lambda row: row["weight"])
    x, y, low, high = (
        np.array([row[k] for row in rows]) for k in ("weight", "mean", "low", "high")
    )
    ax.errorbar(x, y, yerr=[y - low, high - y], marker="o", capsize=2, **style)
