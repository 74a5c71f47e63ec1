"""One weight for all tasks of an environment, chosen on a few of them. No JAX.

The paper's protocol: what is good on tasks 2 and 4 is reported on all five, whether one run plays them
or each has a training of its own.
"""

from collections.abc import Mapping, Sequence

from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Sampler
from qgf_jax.evaluation.choice import Cell, choose
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import ALL_TASKS, Group

_Domain = tuple[str, Sampler]
"""Environment and sampler: one weight of the latter is selected for all tasks of the former."""


def select_on(runs: Sequence[Evaluated], tasks: Sequence[int]) -> None:
    """Marks in the rows of `runs` the weight that the selection episodes of `tasks` choose.

    `runs` are alike but for their tasks, each of which one of them has. As `choose` has it, over the
    mean of `tasks`, and among the weights that all of these have played; the mark is for every task.
    Where there is one weight there is nothing to choose. Raises `UserError` if two runs have a task, or
    if a sampler with several weights has no selection episodes in one of `tasks`.
    """
    _check_apart(runs)
    rows = [row for run in runs for row in run.rows]
    domains = dict.fromkeys(_domain(Group.of(row)) for row in rows)
    chosen = {domain: _chosen(domain, runs, tasks) for domain in domains}
    for row in rows:
        row["selected"] = row["weight"] == chosen[_domain(Group.of(row))]


def mark_as(run: Evaluated, chosen: Evaluated) -> None:
    """Marks in the rows of `run` the weights that are marked in those of `chosen`, for every task."""
    weights = {_domain(Group.of(row)): row["weight"] for row in chosen.rows if row["selected"]}
    for row in run.rows:
        row["selected"] = row["weight"] == weights.get(_domain(Group.of(row)))


def played_on(
    domain: _Domain, runs: Sequence[Evaluated], tasks: Sequence[int]
) -> dict[float, dict[int, Cell]]:
    """The selection episodes of each weight in each of `tasks` that it has played."""
    found: dict[float, dict[int, Cell]] = {}
    for run in runs:
        for (group, weight, split), cells in run.played.items():
            chooses = split == "selection" and group.task in tasks
            if chooses and _domain(group) == domain:
                found.setdefault(weight, {})[group.task] = cells[group.task]
    return found


def _domain(group: Group) -> _Domain:
    return group.env, group.sampler


def _chosen(domain: _Domain, runs: Sequence[Evaluated], tasks: Sequence[int]) -> float:
    env, sampler = domain
    mine = (key for run in runs for key in run.played if _domain(key.group) == domain)
    weights = {key.weight for key in mine}
    if len(weights) == 1:
        return weights.pop()
    played = played_on(domain, runs, tasks)
    whole = {weight: one for weight, one in played.items() if len(one) == len({*tasks})}
    if not whole:
        where = f"--select_on={','.join(map(str, tasks))}: {env}, {sampler.label}"
        raise UserError(f"{where}: {_lacking(played, tasks)}")
    return choose(whole).weight


def _lacking(played: Mapping[float, Mapping[int, Cell]], tasks: Sequence[int]) -> str:
    """What selection lacks: episodes of a task, or else a weight that has played each."""
    known = {task for one in played.values() for task in one}
    for task in tasks:
        if task not in known:
            return (
                f"no selection episodes of task {task}: name a run that has played them, or "
                "run `qgf evaluate` first"
            )
    return (
        "no weight has selection episodes in each of these tasks: run `qgf evaluate` with "
        "the same --weights for all of them"
    )


def _check_apart(runs: Sequence[Evaluated]) -> None:
    """Raises `UserError` if two runs have the same task."""
    seen: dict[tuple[str, int], Evaluated] = {}
    for run in runs:
        for env, task in sorted({(row["env"], row["task"]) for row in run.rows}):
            other = seen.setdefault((env, task), run)
            if other is not run and task != ALL_TASKS:
                raise UserError(
                    f"{other.name} and {run.name} both have task {task} of {env}: --select_on takes one "
                    "run of each task, or runs that are one sample of seeds"
                )
