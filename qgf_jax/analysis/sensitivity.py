"""How success and Q depend on the weight (Zhou et al., 2026, Fig. 20), and Q on the steps of the flow.

Success is that of the run's own episodes; Q is that which guided actions reach in states of the data, by
the critic that guides. Between weights success is asked for: the range that loses little of the best.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qgf_jax.analysis import acting
from qgf_jax.analysis.subject import Subject
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


def plateau(weights: Sequence[float], scores: Sequence[float]) -> list[float]:
    """[lowest, highest] of the weights around the best whose scores are within 0.1 of it."""
    near = [score >= max(scores) - _LOSS for score in scores]
    low = high = int(np.argmax(scores))
    while low > 0 and near[low - 1]:
        low -= 1
    while high + 1 < len(near) and near[high + 1]:
        high += 1
    return [weights[low], weights[high]]


def measure(subject: Subject) -> dict[str, Any]:
    """`success`, from episodes; `q` by weight; `steps`, Q by the flow's steps at one weight."""
    arms, weights = subject.arms(METHODS), subject.weights()
    success, plateaus = _success(subject, arms)
    at = _middle(weights, plateaus)
    steps = sorted({*STEPS, subject.num_steps})
    first = next(iter(arms.values()))
    by_steps = {str(n): _with_steps(first, n) for n in steps}
    unguided = {f"reference/{n}": Arm("reference", 0.0, 1, (("num_steps", n),)) for n in steps}

    def one(params: Params, state: State) -> dict[str, Array]:
        q = jax.vmap(state.q())
        own, _ = acting.of_reference(subject, params, state)
        actions = acting.by_weight(subject, arms, params, state, weights)
        few = acting.by_weight(subject, by_steps, params, state, (at,))
        few |= acting.by_weight(subject, unguided, params, state, (0.0,))
        found = {f"q/{name}": q(x) - state.q()(own) for name, x in actions.items()}
        return found | {f"steps/{name}": (q(x) - state.q()(own))[0] for name, x in few.items()}

    q, of_steps = [], []
    for name, table in subject.measure(one).items():
        what, _, label = name.partition("/")
        if what == "q":
            q += acting.curve(label, weights, table)
        else:
            who, _, count = label.rpartition("/")
            row = acting.level(who or next(iter(arms)), table, steps=int(count))
            of_steps.append(row | {"weight": 0.0 if who else at})
    of_steps.sort(key=lambda row: (row["method"], row["steps"]))
    return {"success": success, "plateaus": plateaus, "q": q, "steps": of_steps}


def _with_steps(arm: Arm, steps: int) -> Arm:
    Method.named(arm.method).check_option("num_steps", steps)
    options = {**dict(arm.options), "num_steps": steps}
    return arm._replace(options=tuple(sorted(options.items())))


def _success(
    subject: Subject, arms: Mapping[str, Arm]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of episodes of each method and weight, and where selection episodes are flat."""
    found: list[dict[str, Any]] = []
    for row in subject.rows:
        arm = Arm.of(row)
        label = arm.sampler.label
        if label in arms and Method.named(arm.method).weighted:
            score = "success" if row["success"] else "return"
            kept = ("task", "weight", "split", "episodes", "seeds")
            found.append({"method": label, "of": score, **{k: row[k] for k in kept}, **row[score]})
    plateaus = []
    for task, label in sorted({(row["task"], row["method"]) for row in found}):
        mine = [r for r in found if (r["task"], r["method"]) == (task, label)]
        mine = sorted((r for r in mine if r["split"] == "selection"), key=lambda r: r["weight"])
        if mine and mine[0]["of"] == "success":
            scores, weights = [r["mean"] for r in mine], [r["weight"] for r in mine]
            best = weights[int(np.argmax(scores))]
            flat = plateau(weights, scores)
            plateaus.append({"task": task, "method": label, "best": best, "within": flat})
    return found, plateaus


def _middle(weights: Sequence[float], plateaus: Sequence[Mapping[str, Any]]) -> float:
    """The best weight of the first method; the middle one where none was played."""
    above = [w for w in weights if w > 0]
    best = plateaus[0]["best"] if plateaus else 0.0
    return best or above[len(above) // 2]


def draw(record: Mapping[str, Any]) -> Figure:
    """Success and Q by weight, Q by the steps of the flow."""
    figure = Figure(figsize=(13.2, 3.8))
    left, middle, right = figure.subplots(1, 3)
    _draw_success(left, record)
    acting.plot(middle, record["q"])
    acting.finish(middle, record["q"], "gain of Q over the reference [return]")
    for label in dict.fromkeys(row["method"] for row in record["steps"]):
        mine = [row for row in record["steps"] if row["method"] == label]
        mine.sort(key=lambda row: row["steps"])
        color, x = acting.color(label), [row["steps"] for row in mine]
        text = label + f", weight {mine[0]['weight']:g}" * bool(mine[0]["weight"])
        right.plot(x, [row["mean"] for row in mine], color=color, marker=".", label=text)
        low, high = ([row[k] for row in mine] for k in ("low", "high"))
        right.fill_between(x, low, high, color=color, alpha=0.15)
    right.set_xscale("log")
    right.set_xticks(x, [f"{n:g}" for n in x])
    right.minorticks_off()
    right.set(xlabel="steps of the flow", ylabel="gain of Q over the reference [return]")
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    figure.suptitle(f"{record['env']}: what weight and steps of the flow do", fontsize=10)
    figure.tight_layout()
    return figure


def _draw_success(ax: Axes, record: Mapping[str, Any]) -> None:
    """Of all tasks together where there are such rows; hollow: selection, filled: report."""
    tasks = {row["task"] for row in record["success"]}
    rows = [r for r in record["success"] if r["task"] == ALL_TASKS or ALL_TASKS not in tasks]
    keys = sorted({(row["method"], row["task"]) for row in rows})
    for label, task in keys:
        color = acting.color(label)
        text = label + f", task {task}" * (len({t for _, t in keys}) > 1)
        for split, fill, ls in (("selection", "none", "-"), ("report", "full", "none")):
            mine = [r for r in rows if (r["method"], r["task"], r["split"]) == (label, task, split)]
            mine.sort(key=lambda r: r["weight"])
            x, y = [r["weight"] for r in mine], np.array([r["mean"] for r in mine])
            error = [y - [r["low"] for r in mine], [r["high"] for r in mine] - y] if mine else None
            ax.errorbar(x, y, yerr=error, color=color, marker="o", fillstyle=fill, ls=ls, capsize=2,
                        label=f"{text}, {split}" if mine else None)  # fmt: skip
    if rows:
        weight_axis(ax, sorted({row["weight"] for row in rows}))
        ax.legend(fontsize=7)
    else:
        ax.text(0.5, 0.5, "no episodes", ha="center", transform=ax.transAxes)
    ax.set(xlabel="guidance weight", ylabel=rows[0]["of"] if rows else "success")
    ax.grid(alpha=0.3)
