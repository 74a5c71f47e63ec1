"""What choosing a weight costs: success of the chosen one against selection episodes spent. No JAX.

The question of Jackson et al. (2025, "A clean slate for offline reinforcement learning"): how good is
a method once somebody has to choose its hyperparameter by playing? Selection episodes are subsampled,
the weight is chosen as ever, and what counts are its report episodes, which are others.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.evaluation.choice import Tasks, choose, comparable
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import ALL_TASKS, Group
from qgf_jax.evaluation.selected_on import played_on
from qgf_jax.evaluation.summary import Row, measure_of

_DRAWS = 40
"""Subsamples of each size."""
_TAILS = (10, 90)
"""Percentiles over these, which tables show beside the mean."""


_Shared = Mapping[int, Set[tuple[int, int]]]
"""The (seed, episode) pairs of each task that count."""


class _Record(NamedTuple):
    """What a group's weights have played for selecting one, and reported."""

    group: Group
    selection: Mapping[float, Tasks]
    reported: Mapping[float, Row]

    @property
    def measure(self) -> str:
        return measure_of(self.reported.values())

    def value(self, weight: float) -> float:
        """The mean of a weight's report episodes."""
        return self.reported[weight][self.measure]["mean"]

    @property
    def spent(self) -> int:
        """The selection episodes of all weights, tasks and seeds."""
        return sum(len(cell) for tasks in self.selection.values() for cell in tasks.values())


def curves(run: Evaluated, select_on: Sequence[int] = ()) -> list[dict[str, Any]]:
    """A record for each sampler whose weight is selected, over all tasks where there are several.

    `points`: for `each` of 0, 1, 2, 4, … selection episodes of a weight, task and seed what was `spent`
    in all, and of the chosen weight's `success` (return where there is none, see `measure`) the mean
    over subsamples with the 10th and 90th percentile as `low` and `high`; 0 is a weight drawn by lot.
    Subsamples are the same at every call. Weights that have not reported do not take part, and less than
    two make no points. `as_played`, where weights have played unequal numbers, as a bandit's do: what
    that has spent, and the report of its weight. `select_on` as in `selected_on.select_on`.
    """
    return [made for one in _records(run, select_on) if (made := _curve(one))]


def _records(run: Evaluated, select_on: Sequence[int]) -> Iterator[_Record]:
    groups = dict.fromkeys(map(Group.of, run.rows))
    for group in groups:
        if group.task != ALL_TASKS and group.pooled in groups:
            continue
        selection = _selection(run, group, select_on)
        rows = [row for row in run.rows if Group.of(row) == group and row["split"] == "report"]
        if len(selection) > 1 and rows:
            yield _Record(group, selection, {row["weight"]: row for row in rows})


def _selection(run: Evaluated, group: Group, select_on: Sequence[int]) -> dict[float, Tasks]:
    """What each weight of a group has played for the choice, in its own tasks or in `select_on`."""
    if select_on:
        played = played_on((group.env, group.sampler), [run], select_on)
        return {
            weight: tasks for weight, tasks in played.items() if len(tasks) == len({*select_on})
        }
    return {
        key.weight: tasks
        for key, tasks in run.played.items() if (key.group, key.split) == (group, "selection")
    }  # fmt: skip


def _curve(one: _Record) -> dict[str, Any]:
    """Empty where there is neither a point of a curve nor one as played."""
    points, played = _points(one), _as_played(one)
    if not (points or played):
        return {}
    group = one.group
    return {
        "env": group.env,
        "task": group.task,
        "method": group.sampler.method,
        "options": dict(group.sampler.options),
        "best_of": group.sampler.best_of,
        "measure": one.measure,
        "weights": len(one.reported.keys() & one.selection.keys()) if points else None,
        "points": points,
        "as_played": played,
    }


def _as_played(one: _Record) -> dict[str, Any] | None:
    counts = {sum(map(len, tasks.values())) for tasks in one.selection.values()}
    chosen = [weight for weight, row in one.reported.items() if row["selected"]]
    if len(counts) == 1 or not chosen:
        return None
    return {"spent": one.spent, "weight": chosen[0], one.measure: one.value(chosen[0])}


def _points(one: _Record) -> list[dict[str, Any]]:
    shared, played = _in_common(one)
    if len(played) < 2:
        return []
    points = [_point(0, 0.0, [one.value(weight) for weight in played], one.measure)]
    for each, draws in _subsamples(shared):
        found = [one.value(choose(_of(played, kept)).weight) for kept in draws]
        spent = [len(played) * sum(map(len, kept.values())) for kept in draws]
        points.append(_point(each, float(np.mean(spent)), found, one.measure))
    return points


def _in_common(one: _Record) -> tuple[_Shared, dict[float, Tasks]]:
    """The pairs on which the weights that have reported compare, and what these have played."""
    both = {w: tasks for w, tasks in one.selection.items() if w in one.reported}
    if not both:
        return {}, {}
    shared, weights = comparable(both)
    return shared, {w: both[w] for w in weights}


def _subsamples(shared: _Shared) -> Iterator[tuple[int, list[_Shared]]]:
    """Numbers of episodes of each task, with the pairs of some draws of so many, or of all once."""
    episodes = {task: sorted({e for _, e in pairs}) for task, pairs in shared.items()}
    most = min(map(len, episodes.values()))
    rng = np.random.default_rng(0)
    orders = [{t: rng.permutation(e).tolist() for t, e in episodes.items()} for _ in range(_DRAWS)]
    for each in _sizes(most):
        some = orders if each < most else orders[:1]
        yield each, [_drawn(order, each, shared) for order in some]


def _drawn(order: Mapping[int, Sequence[int]], each: int, shared: _Shared) -> _Shared:
    """The pairs of the first `each` episodes of every task."""
    drawn = {task: {*own[:each]} for task, own in order.items()}
    return {t: {p for p in pairs if p[1] in drawn[t]} for t, pairs in shared.items()}


def _of(played: Mapping[float, Tasks], kept: _Shared) -> dict[float, Tasks]:
    """The lines of these pairs alone."""
    return {w: {t: {p: own[t][p] for p in kept[t]} for t in kept} for w, own in played.items()}


def _sizes(most: int) -> list[int]:
    """1, 2, 4, … and `most`."""
    return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]


def _point(each: int, spent: float, values: Sequence[float], measure: str) -> dict[str, Any]:
    low, high = np.percentile(values, _TAILS, method="inverted_cdf")  # what some weight has
    found = {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}
    return {"each": each, "spent": spent, measure: found}
