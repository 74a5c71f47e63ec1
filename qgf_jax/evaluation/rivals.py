"""Runs of one method as rivals, of which one is chosen as a weight is. No JAX."""

from collections.abc import Sequence
from typing import NamedTuple

from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import Group, Key, Tasks
from qgf_jax.evaluation.summary import Row, mark


class Rival(NamedTuple):
    """A row of one of several runs."""

    place: int
    """Which of the runs it is of."""
    row: Row


def rank(runs: Sequence[Evaluated]) -> list[Rival]:
    """Copies of all rows of `runs`, marked as if these were one run and each of its arms a weight.

    So a run and a weight are one choice, by the rule of `choice.choose`: of what noise does not tell
    from the best, the first run, and of that the smallest weight. `missing` and `ranked_on` count rows
    of all runs too.
    """
    arms = sorted({(i, key.weight) for i, run in enumerate(runs) for key in run.played})
    numbers = {arm: float(n) for n, arm in enumerate(arms)}
    found = [
        Rival(i, {**row, "weight": numbers[i, row["weight"]], "selected": False, "ranked_on": 0})
        for i, run in enumerate(runs)
        for row in run.rows
    ]
    played = {
        key._replace(weight=numbers[i, key.weight]): tasks
        for i, run in enumerate(runs)
        for key, tasks in run.played.items()
    }
    mark([row for _, row in found], played)
    for _, row in found:
        row["weight"] = arms[int(row["weight"])][1]
    return found


def together(rivals: Sequence[Rival], runs: Sequence[Evaluated]) -> Evaluated:
    """One run of the selected rows, each from its own of the `runs`, which are called as the first."""
    chosen = [one for one in rivals if one.row["selected"]]
    played: dict[Key, Tasks] = {}
    for place, row in chosen:
        played[Key.of(row)] = runs[place].played[Key.of(row)]
    return runs[0]._replace(rows=[row for _, row in chosen], played=played)


def unselecting(runs: Sequence[Evaluated]) -> tuple[int, Group] | None:
    """The first of `runs` without selection episodes of what another one has played, and of what."""
    groups = dict.fromkeys(key.group for run in runs for key in run.played)
    selecting = [{key.group for key in run.played if key.split == "selection"} for run in runs]
    lacking = (
        (i, group) for group in groups for i, own in enumerate(selecting) if group not in own
    )
    return next(lacking, None)
