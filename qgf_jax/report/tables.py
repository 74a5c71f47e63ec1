"""Rows of a table from lines of episodes: intervals, the selected weight, Markdown and CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from qgf_jax.evaluation import selection, statistics

Row = dict[str, Any]
ALL_TASKS = 0
"""The task of a row that is the mean over all tasks."""
_GROUP = ("env", "task", "method", "options", "best_of")
"""A weight is selected within rows that agree in these."""


Line = Mapping[str, Any]
_Cell = dict[tuple[int, int], Line]
"""(seed, episode) -> line: what one arm played of one task and split."""


def unique(lines: Iterable[Line]) -> list[Line]:
    """One line for each episode of an arm: the last one, but a complete one before one that failed."""
    kept: dict[tuple[Any, ...], Line] = {}
    for line in lines:
        key = (*_arm(line), *(line[k] for k in ("split", "step", "seed", "episode")))
        if key in kept and line.get("failed") and not kept[key].get("failed"):
            continue
        kept[key] = line
    return list(kept.values())


def summarize(lines: Iterable[Line]) -> list[Row]:
    """One row per (env, task, method, options, best of N, weight, split), `selected` marked.

    Of each environment the newest step that was evaluated counts. One that is simulated on the device
    has a name of its own, so its episodes are never in a row with the real one's.

    A row counts the episodes that all of its seeds have played; `left_out` says how many others there
    are. `missing`: how many (seed, episode) pairs a rival weight has played and this one has not.
    `ranked_on`: the pairs that weights were compared on, 0 where this one could not be compared.

    Where there are several tasks, an arm that has played them all has a row for their mean too, of
    task `ALL_TASKS`. Per group one weight is selected on the *selection* episodes by
    `selection.choose`, for all tasks together if they have such a row. Report rows of that weight
    carry the mark.
    """
    lines = unique(lines)
    newest: dict[str, int] = {}
    for line in lines:
        newest[line["env"]] = max(line["step"], newest.get(line["env"], 0))
    cells: dict[tuple[Any, ...], _Cell] = {}
    for line in lines:
        if line["step"] == newest[line["env"]]:
            cell = cells.setdefault((*_arm(line), line["split"]), {})
            cell[line["seed"], line["episode"]] = line
    parts = {key: {key[1]: cell} for key, cell in cells.items()} | _over_tasks(cells)
    made = (_row(key, tasks, newest[key[0]]) for key, tasks in parts.items())
    rows = [row for row in made if row is not None]
    _compare(rows, parts)
    return rows


def _arm(line: Line) -> tuple[Any, ...]:
    """What `_GROUP` and the weight are in a line or a row."""
    return *_group(line), line["weight"]


def _over_tasks(cells: Mapping[tuple[Any, ...], _Cell]) -> dict[tuple[Any, ...], dict[int, _Cell]]:
    """The cells of the arms that have played all tasks of an environment, if it has several."""
    tasks: dict[str, set[int]] = {}
    together: dict[tuple[Any, ...], dict[int, _Cell]] = {}
    for (env, task, *rest), cell in cells.items():
        tasks.setdefault(env, set()).add(task)
        together.setdefault((env, ALL_TASKS, *rest), {})[task] = cell
    return {key: part for key, part in together.items() if len(part) == len(tasks[key[0]]) > 1}


def _row(key: tuple[Any, ...], tasks: Mapping[int, _Cell], step: int) -> Row | None:
    """None if no seed has played all of `tasks`."""
    shared, seeds = _complete(tasks)
    if shared.keys() != tasks.keys():
        return None
    counted = [
        tasks[task][seed, episode]
        for task, episodes in shared.items() for seed in seeds for episode in episodes
    ]  # fmt: skip

    def columns(name: str) -> list[np.ndarray]:
        return [
            np.array([[tasks[task][s, e][name] for e in sorted(episodes)] for s in seeds], float)
            for task, episodes in sorted(shared.items())
        ]

    env, task, method, options, best_of, weight, split = key
    return {
        "env": env,
        "task": task,
        "method": method,
        "options": dict(options),
        "weight": weight,
        "best_of": best_of,
        "split": split,
        "selected": False,
        "episodes": len(counted),
        "failed": sum(bool(e.get("failed")) for e in counted),  # by the simulator; none a success
        "left_out": sum(map(len, tasks.values())) - len(counted),
        "missing": 0,
        "ranked_on": 0,
        "seeds": len(seeds),
        "step": step,
        "interval": statistics.kind(len(seeds)),
        "success": statistics.success_interval(columns("success"))._asdict(),
        "return": statistics.mean_interval(columns("return"))._asdict(),
        "length": statistics.mean_interval(columns("length"))._asdict(),
    }


def _complete(tasks: Mapping[int, _Cell]) -> tuple[dict[int, set[int]], list[int]]:
    """The episodes of each task that all of the row's seeds have played, and these seeds."""
    played: dict[int, dict[int, set[int]]] = {}
    for task, cell in tasks.items():
        for seed, episode in cell:
            played.setdefault(seed, {}).setdefault(task, set()).add(episode)
    return selection.common(played)


def _compare(rows: Sequence[Row], parts: Mapping[tuple[Any, ...], Mapping[int, _Cell]]) -> None:
    """Marks what is missing and selected, for all tasks together first."""
    rivals: dict[tuple[Any, ...], dict[str, dict[float, Mapping[int, _Cell]]]] = {}
    for (*group, weight, split), tasks in parts.items():
        rivals.setdefault(tuple(group), {}).setdefault(split, {})[weight] = tasks
    settled: set[tuple[Any, ...]] = set()
    for group in sorted(rivals, key=lambda group: group[1]):  # all tasks first
        mine = [row for row in rows if _group(row) == group]
        for row in mine:
            row["missing"] = _lacks(rivals[group][row["split"]], row["weight"])
        weight = _selected(mine, rivals[group])
        pooled = (group[0], ALL_TASKS, *group[2:])
        if weight is None or pooled in settled:
            continue
        if group == pooled:
            reported = [r for r in rows if r["split"] == "report" and _group(r, ALL_TASKS) == group]
            if reported and not any(
                r["task"] == ALL_TASKS and r["weight"] == weight for r in reported
            ):
                continue  # tasks were added one by one, and each has reported a weight of its own
            settled.add(pooled)
        for row in rows:
            scope = ALL_TASKS if group == pooled else row["task"]
            if row["weight"] == weight and _group(row, scope) == group:
                row["selected"] = True


def _lacks(rivals: Mapping[float, Mapping[int, _Cell]], weight: float) -> int:
    """How many (task, seed, episode) some weight has played and `weight` has not."""
    pairs = {
        w: {(t, *pair) for t, cell in part.items() for pair in cell} for w, part in rivals.items()
    }
    return len(set.union(*pairs.values()) - pairs[weight])


def _selected(
    rows: Sequence[Row], by_split: Mapping[str, Mapping[float, Mapping[int, _Cell]]]
) -> float | None:
    """The group's chosen weight; its selection rows learn what they were ranked on."""
    weights = {weight for part in by_split.values() for weight in part}
    if len(weights) == 1:
        return weights.pop()  # nothing is chosen
    if "selection" not in by_split:
        return None
    choice = selection.choose(by_split["selection"])
    for row in rows:
        if row["split"] == "selection" and row["weight"] in choice.ranked:
            row["ranked_on"] = choice.pairs
    return choice.weight


def gaps(rows: Sequence[Row]) -> list[str]:
    """A line for each row that lacks episodes: what was left out, and what could not be ranked."""
    choosing: dict[tuple[Any, ...], set[float]] = {}  # the weights with selection episodes
    for row in rows:
        if row["split"] == "selection":
            choosing.setdefault(_group(row), set()).add(row["weight"])
    found: dict[str, None] = {}
    for row in rows:
        if row["task"] == ALL_TASKS:
            continue  # its tasks say it
        name = f"{row['env']}, task {row['task']}, {label(row)}, weight {row['weight']:g}"
        if row["left_out"]:
            found[
                f"{name}: {row['left_out']} {row['split']} episodes that only some seeds have played "
                "are left out"
            ] = None
        for group, what in ((_group(row), ""), (_group(row, ALL_TASKS), " of all tasks")):
            if group in choosing and row["weight"] not in choosing[group]:
                found[f"{name}: without selection episodes{what} it cannot be selected"] = None
        if row["split"] == "selection" and row["missing"]:
            ranked = f"weights are ranked on the {row['ranked_on']} that all have"
            alone = "it shares too few with them and cannot be selected"
            found[
                f"{name}: {row['missing']} selection episodes of other weights are missing, so "
                + (ranked if row["ranked_on"] else alone)
            ] = None
    return list(found)


def _group(row: Line, task: int | None = None) -> tuple[Any, ...]:
    """What a row's or a line's rivals share with it; with another `task` than its own, if given."""
    options = tuple(sorted(row["options"].items()))
    own = {**row, "options": options} if task is None else {**row, "options": options, "task": task}
    return tuple(own[k] for k in _GROUP)


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
    return "\n\n".join([table, SELECTED, *intervals(rows), *gaps(rows)])


SELECTED = (
    "← the smallest weight that one standard error does not tell from the best on the selection "
    "episodes, which are others."
)


def intervals(rows: Sequence[Row]) -> list[str]:
    """What the brackets of the report rows are, a line for each kind."""
    kinds = dict.fromkeys(row["interval"] for row in rows if row["split"] == "report")
    return [f"[95 %], {kind}: {statistics.KINDS[kind]}." for kind in kinds]


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
