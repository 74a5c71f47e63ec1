"""Rows of a table from lines of episodes: intervals, the selected weight, Markdown and CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from qgf_jax import statistics

Row = dict[str, Any]
ALL_TASKS = 0
"""The task of a row that is the mean over all tasks."""
_GROUP = ("env", "task", "method", "options", "best_of")
"""A weight is selected within rows that agree in these."""


def summarize(lines: Sequence[dict[str, Any]]) -> list[Row]:
    """One row per (env, task, method, options, best of N, weight, split), `selected` marked.

    Of each environment the newest step that was evaluated counts. One that is simulated on the device
    has a name of its own, so its episodes are never in a row with the real one's.

    Where there are several tasks, an arm that has played them all has a row for their mean too, of
    task `ALL_TASKS`. Per group the weight with the highest success on the *selection* episodes is
    selected, for all tasks together if they have such a row; ties go to the higher return, then to
    the smaller weight. Report rows of that weight carry the mark.
    """
    if not lines:
        return []
    newest: dict[str, int] = {}
    for line in lines:
        newest[line["env"]] = max(line["step"], newest.get(line["env"], 0))
    cells: dict[tuple[Any, ...], dict[int, dict[int, dict[str, Any]]]] = {}
    for line in lines:
        if line["step"] == newest[line["env"]]:
            options = tuple(sorted(line["options"].items()))
            key = (
                *(options if k == "options" else line[k] for k in _GROUP),
                line["weight"],
                line["split"],
            )
            # A line that was written twice counts once.
            cells.setdefault(key, {}).setdefault(line["seed"], {})[line["episode"]] = line
    rows = [_row(key, [seeds], newest[key[0]]) for key, seeds in cells.items()]
    tasks: dict[str, set[int]] = {}
    together: dict[tuple[Any, ...], list[_Seeds]] = {}
    for key, seeds in cells.items():
        tasks.setdefault(key[0], set()).add(key[1])
        together.setdefault((key[0], ALL_TASKS, *key[2:]), []).append(seeds)
    rows += [
        _row(key, parts, newest[key[0]])
        for key, parts in together.items()
        if len(parts) == len(tasks[key[0]]) > 1
    ]
    settled: set[tuple[Any, ...]] = set()
    for chosen in sorted(_selected(rows), key=lambda row: row["task"]):  # all tasks first
        group = _group(chosen, ALL_TASKS)
        arm = [row for row in rows if _same_arm(row, chosen)]
        if chosen["task"] == ALL_TASKS:
            pooled = [row for row in rows if _group(row, ALL_TASKS) == group]
            arm = [row for row in pooled if row["weight"] == chosen["weight"]]
            reported = [row for row in pooled if row["split"] == "report"]
            if reported and not any(r["task"] == ALL_TASKS for r in arm if r in reported):
                continue  # tasks were added one by one, and each has reported a weight of its own
            settled.add(group)
        elif group in settled:
            continue
        for row in arm:
            row["selected"] = True
    return rows


_Seeds = dict[int, dict[int, dict[str, Any]]]
"""seed -> episode -> line"""


def _row(key: tuple[Any, ...], tasks: Sequence[_Seeds], step: int) -> Row:
    def columns(name: str) -> list[list[np.ndarray]]:
        return [
            [np.array([e[name] for e in seeds[seed].values()]) for seed in sorted(seeds)]
            for seeds in tasks
        ]

    env, task, method, options, best_of, weight, split = key
    played = [e for seeds in tasks for episodes in seeds.values() for e in episodes.values()]
    return {
        "env": env,
        "task": task,
        "method": method,
        "options": dict(options),
        "weight": weight,
        "best_of": best_of,
        "split": split,
        "selected": False,
        "episodes": len(played),
        "failed": sum(bool(e.get("failed")) for e in played),  # by the simulator; none a success
        "seeds": len(tasks[0]),
        "step": step,
        "success": statistics.success_interval(columns("success"))._asdict(),
        "return": statistics.mean_interval(columns("return"))._asdict(),
        "length": statistics.mean_interval(columns("length"))._asdict(),
    }


def _same_arm(a: Row, b: Row) -> bool:
    return all(a[k] == b[k] for k in (*_GROUP, "weight"))


def _group(row: Row, task: int | None = None) -> tuple[Any, ...]:
    """What a row's rivals share with it; with another `task` than its own, if given."""
    row = row if task is None else {**row, "task": task}
    return tuple(tuple(row[k].items()) if k == "options" else row[k] for k in _GROUP)


def _selected(rows: Sequence[Row]) -> list[Row]:
    best: dict[tuple[Any, ...], Row] = {}
    weights: dict[tuple[Any, ...], set[float]] = {}
    for row in rows:
        weights.setdefault(_group(row), set()).add(row["weight"])
    for row in rows:
        group = _group(row)
        if row["split"] != "selection" and len(weights[group]) > 1:
            continue  # where there is one weight, nothing is chosen, and any row says which
        if group not in best or _rank(row) > _rank(best[group]):
            best[group] = row
    return list(best.values())


def _rank(row: Row) -> tuple[float, float, float]:
    return row["success"]["mean"], row["return"]["mean"], -row["weight"]


def optimistic(rows: Sequence[Row]) -> list[Row]:
    """The best report row of each group, chosen on the very episodes it reports: biased upwards.

    What the public code logs as its success; kept under this name for comparison with it.
    """
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if row["split"] == "report":
            group = _group(row)
            if group not in best or _rank(row) > _rank(best[group]):
                best[group] = row
    return list(best.values())


def markdown(rows: Sequence[Row]) -> str:
    """The report rows as a Markdown table, the selected weight of each method marked.

    Rows of several runs, with `trained_as`, have a column for it.
    """
    several = any("trained_as" in row for row in rows)
    head = ["env", "task", "method", "weight", "success [95 %]", "return [95 %]", "length", "n"]
    body = [
        [
            row["env"],
            task_label(row["task"]),
            label(row) + (" **←**" if row["selected"] else ""),
            f"{row['weight']:g}",
            _interval(row["success"], 2),
            _interval(row["return"], 1),
            f"{row['length']['mean']:.0f}",
            count(row),
        ]
        for row in rows
        if row["split"] == "report"
    ]
    if several:
        head.insert(2, "trained as")
        shown = [row for row in rows if row["split"] == "report"]
        for line, row in zip(body, shown, strict=True):
            line.insert(2, row["trained_as"])
    widths = [max(len(r[i]) for r in [head, *body]) for i in range(len(head))]
    lines = [head, ["-" * w for w in widths], *body]
    table = "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
    note = "← the weight with the highest success on the selection episodes, which are others."
    return f"{table}\n\n{note}"


def task_label(task: int) -> str:
    """How a row's task is written."""
    return str(task) if task != ALL_TASKS else "all"


def label(row: Row) -> str:
    """How a row's method is written: with its options, and with its N, where it is not 1."""
    method = ":".join([row["method"], *(f"{k}={v}" for k, v in row["options"].items())])
    if row["best_of"] == 1 or method == "ifql":
        return method
    name = "" if method == "best_of" else f"{method} + "
    return f"{name}best of {row['best_of']}"


def count(row: Row) -> str:
    """How many episodes a row is made of, and how many of them a simulator could not play."""
    seeds = f" / {row['seeds']} seeds" if row["seeds"] > 1 else ""
    failed = f" ({row['failed']} not played to the end)" if row.get("failed") else ""
    return f"{row['episodes']}{seeds}{failed}"


def _interval(value: dict[str, float], digits: int) -> str:
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def as_csv(rows: Sequence[Row]) -> str:
    """All rows, with success_mean, success_low and so on as columns."""
    flat = []
    for row in rows:
        line: Row = {}
        for key, value in row.items():
            line |= (
                {"options": ":".join(f"{k}={v}" for k, v in value.items())}
                if key == "options"
                else {f"{key}_{k}": v for k, v in value.items()}
                if isinstance(value, dict)
                else {key: value}
            )
        flat.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, flat[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()
