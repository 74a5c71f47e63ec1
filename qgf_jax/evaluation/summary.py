"""Rows of a table from lines of episodes: means, intervals and the selected weight. No JAX."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qgf_jax.evaluation.choice import Cell, Tasks, choose, leading
from qgf_jax.evaluation.played import (
    ALL_TASKS,
    Group,
    Key,
    Line,
    by_arm,
    complete,
    newest,
    played_to_the_end,
    tables,
    unique,
    with_success,
)
from qgf_jax.evaluation.statistics import Interval

Row = dict[str, Any]
_Rivals = Mapping[Group, Mapping[str, Mapping[float, Tasks]]]
"""group -> split -> weight -> what was played."""


def summarize(lines: Iterable[Line], references: Sequence[float] | None = None) -> list[Row]:
    """One row per (env, task, method, options, best of N, weight, split), `selected` marked.

    Of each environment the newest step that was evaluated counts. An environment that is simulated on
    the device has a name of its own, so its episodes are never in a row with the real one's.

    A row counts the episodes that all of its seeds have played; `left_out` says how many others there
    are. `missing`: how many (seed, episode) pairs a rival weight has played and this one has not.
    `ranked_on`: the pairs that weights were compared on, 0 where this one could not be compared.

    A row's success is `None` where its environment says none. `references`, the returns (low, high)
    that count as 0 and 1, give rows a `score` too, (return - low) / (high - low) (Fu et al., 2020).

    Where there are several tasks, an arm that has played them all has a row for their mean too, of
    task `ALL_TASKS`. Per group one weight is selected on the *selection* episodes, see `choose`, for
    all tasks together if they have such a row. Report rows of that weight carry the mark.
    """
    lines = list(lines)
    steps, parts = newest(lines), by_arm(lines)
    made = (_row(key, tasks, steps[key.group.env], references) for key, tasks in parts.items())
    rows = [row for row in made if row is not None]
    mark(rows, parts)
    return rows


def mark(rows: Sequence[Row], played: Mapping[Key, Tasks]) -> None:
    """Gives rows their `missing`, `ranked_on` and `selected`, by what was `played` of each, and more.

    As `summarize` has it. What is called a weight is any number that tells rivals apart, of which the
    smallest is preferred.
    """
    rivals: dict[Group, dict[str, dict[float, Tasks]]] = {}
    for (group, weight, split), tasks in played.items():
        rivals.setdefault(group, {}).setdefault(split, {})[weight] = tasks
    _mark_missing(rows, rivals)
    _mark_selected(rows, rivals)


def by_step(lines: Iterable[Line], references: Sequence[float] | None = None) -> list[Row]:
    """The selected report rows of every step that was evaluated, the earliest first.

    Each step is summarized for itself: its own selection episodes select its weights.
    """
    parts: dict[int, list[Line]] = {}
    for line in lines:
        parts.setdefault(line["step"], []).append(line)
    rows = [row for _, part in sorted(parts.items()) for row in summarize(part, references)]
    return [row for row in rows if row["selected"] and row["split"] == "report"]


def leading_weights(lines: Iterable[Line], count: int) -> list[float]:
    """The `count` weights that lead in lines of one sampler, over all tasks; see `choice.leading`."""
    played: dict[float, dict[int, Cell]] = {}
    for line in with_success(unique(lines)):
        cell = played.setdefault(line["weight"], {}).setdefault(line["task"], {})
        cell[line["seed"], line["episode"]] = line
    return leading(played, count)


def measure_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """What rows of a task are compared by: success, or return where none has any."""
    return (
        "success"
        if any(row["success"] and row["success"]["mean"] > 0 for row in rows)
        else "return"
    )


def _row(key: Key, tasks: Tasks, step: int, references: Sequence[float] | None) -> Row | None:
    """None if no seed has played all of `tasks`."""
    shared, seeds = complete(tasks)
    if shared.keys() != tasks.keys():
        return None
    counted = [
        tasks[task][seed, episode]
        for task, episodes in shared.items() for seed in seeds for episode in episodes
    ]  # fmt: skip

    columns = functools.partial(tables, tasks, seeds)
    whole = played_to_the_end(tasks, shared, seeds)
    sampler, returned = key.group.sampler, Interval.of_mean(columns("return", whole))
    says = "success" in counted[0]
    return {
        "env": key.group.env,
        "task": key.group.task,
        "method": sampler.method,
        "options": dict(sampler.options),
        "weight": key.weight,
        "best_of": sampler.best_of,
        "split": key.split,
        "selected": False,
        "episodes": len(counted),
        "failed": sum(bool(e.get("failed")) for e in counted),  # by the simulator; none a success
        "left_out": sum(map(len, tasks.values())) - len(counted),
        "missing": 0,
        "ranked_on": 0,
        "seeds": len(seeds),
        "step": step,
        "interval": Interval.kind(len(seeds)),
        "success": Interval.of_success(columns("success", shared))._asdict() if says else None,
        "return": returned._asdict(),
        **({"score": _score(returned, references)} if references else {}),
        "length": Interval.of_mean(columns("length", whole))._asdict(),
    }


def _score(returned: Interval, references: Sequence[float]) -> dict[str, float]:
    low, high = references
    return {key: (value - low) / (high - low) for key, value in returned._asdict().items()}


def _mark_missing(rows: Iterable[Row], rivals: _Rivals) -> None:
    """Notes how many (task, seed, episode) a rival weight has played and the row's has not."""
    for row in rows:
        pairs = {
            weight: {(task, *pair) for task, cell in tasks.items() for pair in cell}
            for weight, tasks in rivals[Group.of(row)][row["split"]].items()
        }
        row["missing"] = len(set.union(*pairs.values()) - pairs[row["weight"]])


def _mark_selected(rows: Sequence[Row], rivals: _Rivals) -> None:
    """Marks the rows of each group's selected weight; that of all tasks together, where there is one."""
    settled: set[Group] = set()
    for group in sorted(rivals, key=lambda group: group.task):  # all tasks first
        weight = _selected([row for row in rows if Group.of(row) == group], rivals[group])
        if weight is None or group.pooled in settled:
            continue
        mine = [row for row in rows if group in (Group.of(row), Group.of(row).pooled)]
        if group == group.pooled:
            if _reported_apart(mine, weight):
                continue
            settled.add(group)
        _select(mine, weight)


def _select(rows: Iterable[Row], weight: float) -> None:
    for row in rows:
        row["selected"] = row["selected"] or row["weight"] == weight


def _reported_apart(rows: Iterable[Row], weight: float) -> bool:
    """Whether tasks were added one by one, and each has reported a weight of its own."""
    reported = [row for row in rows if row["split"] == "report"]
    together = (row["weight"] for row in reported if row["task"] == ALL_TASKS)
    return bool(reported) and weight not in together


def _selected(rows: Iterable[Row], by_split: Mapping[str, Mapping[float, Tasks]]) -> float | None:
    """The group's chosen weight; its selection rows learn what they were ranked on."""
    weights = {weight for part in by_split.values() for weight in part}
    if len(weights) == 1:
        return weights.pop()  # nothing is chosen
    if "selection" not in by_split:
        return None
    choice = choose(by_split["selection"])
    for row in rows:
        if row["split"] == "selection" and row["weight"] in choice.ranked:
            row["ranked_on"] = choice.pairs
    return choice.weight
