"""Rows of a table from lines of episodes: means, intervals and the selected weight. No JAX."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.evaluation.arms import Arm, Sampler
from qgf_jax.evaluation.statistics import Interval

Row = dict[str, Any]
ALL_TASKS = 0
"""The task of a row that is the mean over all tasks."""

Line = Mapping[str, Any]
_Cell = dict[tuple[int, int], Line]
"""(seed, episode) -> line: what one arm played of one task and split."""
_Tasks = Mapping[int, _Cell]


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


_Rivals = Mapping[_Group, Mapping[str, Mapping[float, _Tasks]]]
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
    task `ALL_TASKS`. Per group one weight is selected on the *selection* episodes, see `_choose`, for
    all tasks together if they have such a row. Report rows of that weight carry the mark.
    """
    lines = unique(lines)
    newest: dict[str, int] = {}
    for line in lines:
        newest[line["env"]] = max(line["step"], newest.get(line["env"], 0))
    cells: dict[_Key, _Cell] = {}
    for line in _with_success(lines):
        if line["step"] == newest[line["env"]]:
            key = _Key(_Group.of(line), line["weight"], line["split"])
            cells.setdefault(key, {})[line["seed"], line["episode"]] = line
    parts: dict[_Key, _Tasks] = {key: {key.group.task: cell} for key, cell in cells.items()}
    parts |= _over_tasks(cells)
    made = (_row(key, tasks, newest[key.group.env], references) for key, tasks in parts.items())
    rows = [row for row in made if row is not None]
    rivals: dict[_Group, dict[str, dict[float, _Tasks]]] = {}
    for (group, weight, split), tasks in parts.items():
        rivals.setdefault(group, {}).setdefault(split, {})[weight] = tasks
    _mark_missing(rows, rivals)
    _mark_selected(rows, rivals)
    return rows


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


def _over_tasks(cells: Mapping[_Key, _Cell]) -> dict[_Key, _Tasks]:
    """The cells of the arms that have played all tasks of an environment, if it has several."""
    tasks: dict[str, set[int]] = {}
    together: dict[_Key, dict[int, _Cell]] = {}
    for key, cell in cells.items():
        group = key.group
        tasks.setdefault(group.env, set()).add(group.task)
        together.setdefault(key._replace(group=group.pooled), {})[group.task] = cell
    return {
        key: part for key, part in together.items() if len(part) == len(tasks[key.group.env]) > 1
    }


def _row(key: _Key, tasks: _Tasks, step: int, references: Sequence[float] | None) -> Row | None:
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

    sampler, returned = key.group.sampler, Interval.of_mean(columns("return"))
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
        "success": Interval.of_success(columns("success"))._asdict() if says else None,
        "return": returned._asdict(),
        **({"score": _score(returned, references)} if references else {}),
        "length": Interval.of_mean(columns("length"))._asdict(),
    }


def _score(returned: Interval, references: Sequence[float]) -> dict[str, float]:
    low, high = references
    return {key: (value - low) / (high - low) for key, value in returned._asdict().items()}


def _complete(tasks: _Tasks) -> tuple[dict[int, set[int]], list[int]]:
    """The episodes of each task that all of the row's seeds have played, and these seeds."""
    played: dict[int, dict[int, set[int]]] = {}
    for task, cell in tasks.items():
        for seed, episode in cell:
            played.setdefault(seed, {}).setdefault(task, set()).add(episode)
    return _common(played)


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


def _selected(rows: Iterable[Row], by_split: Mapping[str, Mapping[float, _Tasks]]) -> float | None:
    """The group's chosen weight; its selection rows learn what they were ranked on."""
    weights = {weight for part in by_split.values() for weight in part}
    if len(weights) == 1:
        return weights.pop()  # nothing is chosen
    if "selection" not in by_split:
        return None
    choice = _choose(by_split["selection"])
    for row in rows:
        if row["split"] == "selection" and row["weight"] in choice.ranked:
            row["ranked_on"] = choice.pairs
    return choice.weight


class _Choice(NamedTuple):
    """The chosen weight, and what it was chosen on."""

    weight: float
    pairs: int
    """(Seed, episode) pairs that all ranked weights have played."""
    ranked: tuple[float, ...]
    """The weights that were compared; one that shares too few pairs with the others is not."""


def _choose(candidates: Mapping[float, _Tasks]) -> _Choice:
    """The smallest weight that noise does not tell from the best.

    Success first, where there is such: kept are the weights whose success is within one standard error
    of the highest. Of these, kept are the weights whose return is within one standard error of the
    highest; the smallest of them is chosen (the one-standard-error rule of Breiman et al., 1984). The
    standard error is that of the paired difference over the pairs that all weights have played. Without
    a success, only weights with the fewest failed episodes are ranked: the return of one that the
    simulator could not play to its end says nothing.
    """
    pairs, ranked = _common(
        {w: {t: set(cell) for t, cell in tasks.items()} for w, tasks in candidates.items()}
    )
    line = next(iter(next(iter(candidates[ranked[0]].values())).values()))
    says = "success" in line
    weights = ranked if says else _least_failed(ranked, candidates, pairs)
    for name in ("success", "return") if says else ("return",):
        tables = {w: _tables(candidates[w], pairs, name) for w in weights}
        best = max(weights, key=lambda w: Interval.mean_and_error(tables[w])[0])
        weights = [w for w in weights if w == best or _ties(tables[best], tables[w])]
    return _Choice(weights[0], sum(map(len, pairs.values())), tuple(ranked))


def _least_failed(
    weights: Sequence[float], candidates: Mapping[float, _Tasks], shared: Mapping[int, Set]
) -> list[float]:
    """The weights of which the simulator failed to play the fewest of the shared episodes."""
    pairs = [(task, pair) for task, some in shared.items() for pair in some]
    failed = {w: sum(bool(candidates[w][t][p].get("failed")) for t, p in pairs) for w in weights}
    return [w for w in weights if failed[w] == min(failed.values())]


def _common(candidates: Mapping[Any, Mapping[int, Set]]) -> tuple[dict[int, set], list[Any]]:
    """What candidates have all played of each task, and the candidates of which that is true.

    `candidates[name][task]` is a set, of episodes for example. Candidates join in the order of how
    much they have played, so that the odd one is left out: one with which the numbers that are
    compared, candidates times what they share, would be fewer than without it, or none in some task.
    """

    def size(name: Any) -> tuple[int, Any]:
        return -_count(candidates[name]), name

    first, *others = sorted(candidates, key=size)
    shared, joined = {task: set(played) for task, played in candidates[first].items()}, [first]
    for name in others:
        less = {task: played & candidates[name].get(task, set()) for task, played in shared.items()}
        enough = (len(joined) + 1) * _count(less) >= len(joined) * _count(shared)
        if all(less.values()) and enough:
            shared = less
            joined.append(name)
    return shared, sorted(joined)


def _count(parts: Mapping[int, Set]) -> int:
    return sum(map(len, parts.values()))


def _tables(played: _Tasks, shared: Mapping[int, Set], name: str) -> list[np.ndarray]:
    """[S, E] of each task; NaN where a seed and an episode are no common pair."""
    seeds = sorted({seed for pairs in shared.values() for seed, _ in pairs})
    tables = []
    for task, pairs in sorted(shared.items()):
        episodes = sorted({episode for _, episode in pairs})
        table = np.full((len(seeds), len(episodes)), np.nan)
        for seed, episode in pairs:
            value = played[task][seed, episode][name]
            table[seeds.index(seed), episodes.index(episode)] = value
        tables.append(table)
    return tables


def _ties(best: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Whether noise may be all that parts them; of a single pair nobody can say."""
    if sum(np.sum(~np.isnan(table)) for table in best) < 2:
        return True
    gap, error = Interval.mean_and_error([a - b for a, b in zip(best, other, strict=True)])
    return gap <= error
