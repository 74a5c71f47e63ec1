"""Rows of a table from lines of episodes: means, intervals and the selected weight. No JAX."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.evaluation.arms import Arm, Sampler
from qgf_jax.evaluation.choice import Cell, Tasks, choose, common, leading
from qgf_jax.evaluation.statistics import Interval

Row = dict[str, Any]
ALL_TASKS = 0
"""The task of a row that is the mean over all tasks."""

Line = Mapping[str, Any]


class _Group(NamedTuple):
    """A weight is selected within rows that agree in these."""

    env: str
    task: int
    sampler: Sampler

    @classmethod
    def of(cls, row: Line) -> "_Group":
        return cls(row["env"], row["task"], Arm.of(row).sampler)

    @property
    def pooled(self) -> "_Group":
        """The group of the mean over all tasks."""
        return self._replace(task=ALL_TASKS)


class _Key(NamedTuple):
    """What a row is the mean of."""

    group: _Group
    weight: float
    split: str


_Rivals = Mapping[_Group, Mapping[str, Mapping[float, Tasks]]]
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
    lines = unique(lines)
    newest: dict[str, int] = {}
    for line in lines:
        newest[line["env"]] = max(line["step"], newest.get(line["env"], 0))
    cells: dict[_Key, Cell] = {}
    for line in _with_success(lines):
        if line["step"] == newest[line["env"]]:
            key = _Key(_Group.of(line), line["weight"], line["split"])
            cells.setdefault(key, {})[line["seed"], line["episode"]] = line
    parts: dict[_Key, Tasks] = {key: {key.group.task: cell} for key, cell in cells.items()}
    parts |= _over_tasks(cells)
    made = (_row(key, tasks, newest[key.group.env], references) for key, tasks in parts.items())
    rows = [row for row in made if row is not None]
    rivals: dict[_Group, dict[str, dict[float, Tasks]]] = {}
    for (group, weight, split), tasks in parts.items():
        rivals.setdefault(group, {}).setdefault(split, {})[weight] = tasks
    _mark_missing(rows, rivals)
    _mark_selected(rows, rivals)
    return rows


def leading_weights(lines: Iterable[Line], count: int) -> list[float]:
    """The `count` weights that lead in lines of one sampler, over all tasks; see `choice.leading`."""
    played: dict[float, dict[int, Cell]] = {}
    for line in _with_success(unique(lines)):
        cell = played.setdefault(line["weight"], {}).setdefault(line["task"], {})
        cell[line["seed"], line["episode"]] = line
    return leading(played, count)


def _with_success(lines: Sequence[Line]) -> list[Line]:
    """The lines, where no success of an environment that says such is 0, as of what it cannot play."""
    saying = {line["env"] for line in lines if "success" in line}
    return [
        {**line, "success": 0.0} if "success" not in line and line["env"] in saying else line
        for line in lines
    ]


def unique(lines: Iterable[Line]) -> list[Line]:
    """One line for each episode of an arm: the last one, but a complete one before one that failed."""
    kept: dict[tuple[Any, ...], Line] = {}
    for line in lines:
        key = (_Group.of(line), *(line[k] for k in ("weight", "split", "step", "seed", "episode")))
        if key in kept and line.get("failed") and not kept[key].get("failed"):
            continue
        kept[key] = line
    return list(kept.values())


def _over_tasks(cells: Mapping[_Key, Cell]) -> dict[_Key, Tasks]:
    """The cells of the arms that have played all tasks of an environment, if it has several."""
    tasks: dict[str, set[int]] = {}
    together: dict[_Key, dict[int, Cell]] = {}
    for key, cell in cells.items():
        group = key.group
        tasks.setdefault(group.env, set()).add(group.task)
        together.setdefault(key._replace(group=group.pooled), {})[group.task] = cell
    return {
        key: part for key, part in together.items() if len(part) == len(tasks[key.group.env]) > 1
    }


def _row(key: _Key, tasks: Tasks, step: int, references: Sequence[float] | None) -> Row | None:
    """None if no seed has played all of `tasks`."""
    shared, seeds = _complete(tasks)
    if shared.keys() != tasks.keys():
        return None
    counted = [
        tasks[task][seed, episode]
        for task, episodes in shared.items() for seed in seeds for episode in episodes
    ]  # fmt: skip

    def columns(name: str, played: Mapping[int, Set]) -> list[np.ndarray]:
        return [
            np.array([[tasks[task][s, e][name] for e in sorted(episodes)] for s in seeds], float)
            for task, episodes in sorted(played.items())
        ]

    whole = _played_to_the_end(tasks, shared, seeds)
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


def _played_to_the_end(
    tasks: Tasks, shared: Mapping[int, Set], seeds: Sequence[int]
) -> Mapping[int, Set]:
    """The `shared` episodes without those that the simulator could not play for one of the seeds.

    What such an episode had gained says nothing, and of costs it says that stopping is best. All of them
    if that would leave a task without any.
    """
    whole = {
        task: {e for e in episodes if not any(tasks[task][s, e].get("failed") for s in seeds)}
        for task, episodes in shared.items()
    }
    return whole if all(whole.values()) else shared


def _score(returned: Interval, references: Sequence[float]) -> dict[str, float]:
    low, high = references
    return {key: (value - low) / (high - low) for key, value in returned._asdict().items()}


def _complete(tasks: Tasks) -> tuple[dict[int, set[int]], list[int]]:
    """The episodes of each task that all of the row's seeds have played, and these seeds."""
    played: dict[int, dict[int, set[int]]] = {}
    for task, cell in tasks.items():
        for seed, episode in cell:
            played.setdefault(seed, {}).setdefault(task, set()).add(episode)
    return common(played)


def _mark_missing(rows: Iterable[Row], rivals: _Rivals) -> None:
    """Notes how many (task, seed, episode) a rival weight has played and the row's has not."""
    for row in rows:
        pairs = {
            weight: {(task, *pair) for task, cell in tasks.items() for pair in cell}
            for weight, tasks in rivals[_Group.of(row)][row["split"]].items()
        }
        row["missing"] = len(set.union(*pairs.values()) - pairs[row["weight"]])


def _mark_selected(rows: Sequence[Row], rivals: _Rivals) -> None:
    """Marks the rows of each group's selected weight; that of all tasks together, where there is one."""
    settled: set[_Group] = set()
    for group in sorted(rivals, key=lambda group: group.task):  # all tasks first
        weight = _selected([row for row in rows if _Group.of(row) == group], rivals[group])
        if weight is None or group.pooled in settled:
            continue
        mine = [row for row in rows if group in (_Group.of(row), _Group.of(row).pooled)]
        if group == group.pooled and _reported_apart(mine, weight):
            continue
        if group == group.pooled:
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
