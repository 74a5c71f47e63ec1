"""What each arm has played: lines of episodes by arm, task and split. No JAX."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.evaluation.arms import Arm, Sampler
from qgf_jax.evaluation.choice import Cell, Tasks, common

Line = Mapping[str, Any]
ALL_TASKS = 0
"""The task of a row that is the mean over all tasks."""


class Group(NamedTuple):
    """A weight is selected within rows that agree in these."""

    env: str
    task: int
    sampler: Sampler

    @classmethod
    def of(cls, row: Line) -> "Group":
        """That of a line or of a row."""
        return cls(row["env"], row["task"], Arm.of(row).sampler)

    @property
    def pooled(self) -> "Group":
        """The group of the mean over all tasks."""
        return self._replace(task=ALL_TASKS)


class Key(NamedTuple):
    """What a row is the mean of."""

    group: Group
    weight: float
    split: str

    @classmethod
    def of(cls, row: Line) -> "Key":
        """That of a line or of a row."""
        return cls(Group.of(row), row["weight"], row["split"])


def by_arm(lines: Iterable[Line]) -> dict[Key, Tasks]:
    """What lines have of each arm, task and split; with several tasks, of all tasks together too.

    Of each environment the newest step that was evaluated counts. Only arms that have played all tasks
    have an entry for all of them, `ALL_TASKS`.
    """
    lines = unique(lines)
    steps = newest(lines)
    cells: dict[Key, Cell] = {}
    for line in with_success(lines):
        if line["step"] == steps[line["env"]]:
            cells.setdefault(Key.of(line), {})[line["seed"], line["episode"]] = line
    parts: dict[Key, Tasks] = {key: {key.group.task: cell} for key, cell in cells.items()}
    return parts | _over_tasks(cells)


def newest(lines: Iterable[Line]) -> dict[str, int]:
    """The newest step of each environment that was evaluated."""
    found: dict[str, int] = {}
    for line in lines:
        found[line["env"]] = max(line["step"], found.get(line["env"], 0))
    return found


def unique(lines: Iterable[Line]) -> list[Line]:
    """One line for each episode of an arm: the last one, but a complete one before one that failed."""
    kept: dict[tuple[Any, ...], Line] = {}
    for line in lines:
        key = (Group.of(line), *(line[k] for k in ("weight", "split", "step", "seed", "episode")))
        if key in kept and line.get("failed") and not kept[key].get("failed"):
            continue
        kept[key] = line
    return list(kept.values())


def with_success(lines: Sequence[Line]) -> list[Line]:
    """The lines, where no success of an environment that says such is 0, as of what it cannot play."""
    saying = {line["env"] for line in lines if "success" in line}
    return [
        {**line, "success": 0.0} if "success" not in line and line["env"] in saying else line
        for line in lines
    ]


def complete(tasks: Tasks) -> tuple[dict[int, set[int]], list[Any]]:
    """The episodes of each task that all seeds have played, and these seeds; an odd one is left out."""
    played: dict[Any, dict[int, set[int]]] = {}
    for task, cell in tasks.items():
        for seed, episode in cell:
            played.setdefault(seed, {}).setdefault(task, set()).add(episode)
    return common(played)


def played_to_the_end(
    tasks: Tasks, shared: Mapping[int, Set], seeds: Sequence[Any]
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


def _over_tasks(cells: Mapping[Key, Cell]) -> dict[Key, Tasks]:
    """The cells of the arms that have played all tasks of an environment, if it has several."""
    tasks: dict[str, set[int]] = {}
    together: dict[Key, dict[int, Cell]] = {}
    for key, cell in cells.items():
        group = key.group
        tasks.setdefault(group.env, set()).add(group.task)
        together.setdefault(key._replace(group=group.pooled), {})[group.task] = cell
    return {
        key: part for key, part in together.items() if len(part) == len(tasks[key.group.env]) > 1
    }


def tables(
    tasks: Tasks, seeds: Sequence[Any], name: str, episodes: Mapping[int, Set[int]]
) -> list[np.ndarray]:
    """`name` [S, E] of the `episodes` of each task, which all `seeds` have played."""
    return [
        np.array([[tasks[task][s, e][name] for e in sorted(some)] for s in seeds], float)
        for task, some in sorted(episodes.items())
    ]
