"""How report rows differ from a baseline, over the episodes that both have played. No JAX."""

import itertools
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.choice import Cell, Tasks
from qgf_jax.evaluation.played import ALL_TASKS, Group, Key, complete, played_to_the_end, tables
from qgf_jax.evaluation.statistics import Difference, holm
from qgf_jax.evaluation.summary import Row, measure_of

_LEAST = 2
"""Episodes of each task without which nobody can say how much they differ."""


class Evaluated(NamedTuple):
    """A run's rows, and what each of them is the mean of."""

    rows: Sequence[Row]
    played: Mapping[Key, Tasks]
    """By the numbers that seeds were trained with, which two runs may have in common."""
    name: str = ""
    """How a table of several runs calls it."""
    training: str = ""
    """What it was trained as, which several runs may have in common."""
    references: Sequence[float] | None = None
    """The returns that count as 0 and 1."""

    def table(self, row: Row, name: str) -> np.ndarray:
        """`name` [S, E] of what a row of one task counts."""
        tasks = self.played[Key.of(row)]
        shared, seeds = complete(tasks)
        if name != "success":
            shared = played_to_the_end(tasks, shared, seeds)
        (made,) = tables(tasks, seeds, name, shared)
        return made

    def unreported(self, seeds: int) -> Iterator[str]:
        """A line for each selected weight that fewer than `seeds` seeds of a sample have reported.

        As where each folder has reported the weight that its own seeds select.
        """
        chosen: dict[tuple[Any, ...], dict[str, Row]] = {}
        for row in self.rows:
            if row["selected"] and row["task"] != ALL_TASKS:
                arm = (row["env"], row["task"], Arm.of(row))
                chosen.setdefault(arm, {})[row["split"]] = row
        for (env, task, arm), rows in chosen.items():
            count = rows["report"]["seeds"] if "report" in rows else 0
            if count < seeds:
                yield (
                    f"{env}, task {task}, {arm.sampler.label}: {count} of {seeds} seeds have reported "
                    f"weight {arm.weight:g}, which is selected: `qgf evaluate --weights="
                    f"{arm.weight:g}` of each folder plays what is missing"
                )


_Place = tuple[str, int]
"""An environment and a task."""


class _Side(NamedTuple):
    """A row of a run."""

    run: Evaluated
    row: Row

    @property
    def tasks(self) -> Tasks:
        return self.run.played[Key.of(self.row)]

    @property
    def seeds(self) -> set[int]:
        return {seed for cell in self.tasks.values() for seed, _ in cell}

    @property
    def place(self) -> "_Place":
        return self.row["env"], self.row["task"]

    @property
    def label(self) -> str:
        """As tables print it, with its weight if it has one and its run where there are several."""
        text = Arm.of(self.row).label
        return f"{text} ({self.run.name})" if self.run.name else text


def compare(runs: Sequence[Evaluated], baseline: str | None = None) -> None:
    """Gives each report row of `runs` its `paired`: how it differs from its baseline, or `None`.

    `baseline`: the label of an arm as tables print it, of the first of `runs` that has it in the row's
    environment and task; N may be left out. Without one it is best-of-4 of the row's own run, or else
    the reference; a run that has neither is compared with those of the first one that has. Where
    the baseline has several weights, its selected one counts.

    The difference is of success over (seed, episode) pairs that both have played; of return where the
    environment says none or no report row of the task has any. If no seed number is in both runs, their
    seeds are independent and episodes alone are paired. `p_holm` of selected rows is adjusted (Holm,
    1979) for all of these. Rows without two common episodes in each task have no difference. Raises
    `UserError` if no run has the `baseline`.
    """
    reported = [_Side(run, row) for run in runs for row in run.rows if row["split"] == "report"]
    bases = [_baseline(runs, *side, baseline) for side in reported]
    if baseline and not any(bases):
        raise _unknown(baseline, runs)
    measures = _measures(reported)
    for side, base in zip(reported, bases, strict=True):
        side.row["paired"] = base and _difference(side, base, measures[side.place])
    _adjust([row for _, row in reported])


def _measures(reported: Sequence[_Side]) -> dict[_Place, str]:
    """What is compared in each environment and task."""
    rows: dict[_Place, list[Row]] = {}
    for side in reported:
        rows.setdefault(side.place, []).append(side.row)
    return {place: measure_of(of) for place, of in rows.items()}


def _unknown(baseline: str, runs: Sequence[Evaluated]) -> UserError:
    labels = sorted({Group.of(row).sampler.label for run in runs for row in run.rows})
    return UserError(
        f"no selected report row of an arm {baseline!r}: there are {', '.join(labels)}"
    )


def _adjust(rows: Sequence[Row]) -> None:
    """Gives the differences of selected rows the p that counts all of these."""
    family = [row["paired"] for row in rows if row["selected"] and row["paired"]]
    for found, p in zip(family, holm([found["p"] for found in family]), strict=True):
        found["p_holm"] = p


def _baseline(
    runs: Sequence[Evaluated], own: Evaluated, row: Row, wanted: str | None
) -> _Side | None:
    order = runs if wanted else [own, *runs]
    for run in order:
        ranks = {
            i: rank
            for i, other in enumerate(run.rows)
            if other["split"] == "report" and other["selected"]
            and (other["env"], other["task"]) == (row["env"], row["task"])
            and (rank := Group.of(other).sampler.rank_as_baseline(wanted)) is not None
        }  # fmt: skip
        if ranks:
            return _Side(run, run.rows[min(ranks, key=lambda i: ranks[i])])
    return None


class _Pairs(NamedTuple):
    """What two rows have played in common."""

    measure: str
    """success or return."""
    tables: Sequence[Sequence[np.ndarray]]
    """Of either row, [S, E] of each task."""
    same_seeds: bool

    @classmethod
    def of(cls, arm: _Side, base: _Side, measure: str = "success") -> "_Pairs | None":
        """`None` where too little is common. Of return where one says no success."""
        if arm.tasks.keys() != base.tasks.keys():
            return None
        common = bool(arm.seeds & base.seeds)
        shared, sides = _common(arm, base) if common else _on_the_same_episodes(arm, base)
        if not (arm.row["success"] and base.row["success"]):
            measure = "return"
        if not all(sides):
            return None
        both = [*zip((arm, base), sides, strict=True)]
        for side, seeds in both if measure == "return" else ():
            shared = played_to_the_end(side.tasks, shared, seeds)
        if not _enough(shared, arm.tasks):
            return None
        return cls(
            measure, [tables(side.tasks, seeds, measure, shared) for side, seeds in both], common
        )

    @property
    def seeds(self) -> int:
        """Of the side that has fewer."""
        return min(len(tables[0]) for tables in self.tables)

    def difference(self) -> Difference:
        """Of the first row less the second."""
        success = self.measure == "success"
        return Difference.of(*self.tables, paired=self.same_seeds, success=success)


def _difference(arm: _Side, base: _Side, measure: str) -> dict[str, Any] | None:
    """The record of a row; `None` for the baseline itself, and where too little is common."""
    pairs = None if arm.row is base.row else _Pairs.of(arm, base, measure)
    return pairs and {
        "baseline": base.label,
        "measure": pairs.measure,
        **pairs.difference()._asdict(),
        "p_holm": None,
        "pairs": pairs.seeds * sum(table.shape[1] for table in pairs.tables[0]),
        "seeds": pairs.seeds,
        "same_seeds": pairs.same_seeds,
        "interval": Difference.kind(pairs.seeds),
    }


def mean_difference(
    arm: Sequence[tuple[Evaluated, Row]], base: Sequence[tuple[Evaluated, Row]]
) -> Difference | None:
    """Of successes over tasks, one row of each: the mean of the tasks' differences, tasks as strata.

    Seeds of one number count as one over all tasks, of several runs too, which widens the interval
    where such runs are alike. `None` where a task has no success, or rows have not the same seeds.
    """
    both = [(_Side(*one), _Side(*other)) for one, other in zip(arm, base, strict=True)]
    found = [pairs for sides in both if (pairs := _Pairs.of(*sides))]
    kinds = {(pairs.measure, pairs.same_seeds, pairs.seeds) for pairs in found}
    if len(found) < len(both) or [kind[:2] for kind in kinds] != [("success", True)]:
        return None
    sides = zip(*(pairs.tables for pairs in found), strict=True)
    ours, theirs = ([*itertools.chain(*each)] for each in sides)
    return Difference.of(ours, theirs, paired=True, success=True)


_Common = tuple[Mapping[int, Set], list[list[int]]]
"""The episodes of each task that count, and the seeds of either side."""


def _enough(shared: Mapping[int, Set], tasks: Tasks) -> bool:
    return shared.keys() == tasks.keys() and min(map(len, shared.values())) >= _LEAST


def _common(arm: _Side, base: _Side) -> _Common:
    both: dict[int, Cell] = {
        task: {pair: line for pair, line in cell.items() if pair in base.tasks[task]}
        for task, cell in arm.tasks.items()
    }
    if not all(both.values()):
        return {}, [[], []]
    shared, seeds = complete(both)
    return shared, [seeds, seeds]


def _on_the_same_episodes(arm: _Side, base: _Side) -> _Common:
    both: dict[int, Any] = {
        task: {
            ((place, seed), episode): line
            for place, side in enumerate((arm, base))
            for (seed, episode), line in side.tasks[task].items()
        }
        for task in arm.tasks
    }
    shared, seeds = complete(both)
    return shared, [[seed for place, seed in seeds if place == side] for side in (0, 1)]
