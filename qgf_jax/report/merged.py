"""Several run folders as one sample of seeds, where nothing else tells them apart. No JAX."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import ALL_TASKS, newest
from qgf_jax.evaluation.summary import Row
from qgf_jax.runs.alike import changes, doubts
from qgf_jax.runs.files import Lines
from qgf_jax.runs.run import Run

Line = Mapping[str, Any]


class Sample(NamedTuple):
    """Runs whose seeds are one sample, and what these have played."""

    runs: list[Run]
    """The first one stands for all."""
    logs: list[Lines]
    """What was read of each."""
    lines: list[Line]
    """Their episodes, whose seeds are the numbers that these were trained with."""
    places: dict[int, Run]
    """The run of each seed."""

    @property
    def run(self) -> Run:
        """The one that stands for all."""
        return self.runs[0]

    @property
    def folders(self) -> str:
        """Their names, for a table."""
        first, *more = (run.workdir.name for run in self.runs)
        return f"{first} and {len(more)} more" if len(more) > 2 else " + ".join((first, *more))

    def _add(self, run: Run, log: Lines, numbers: Sequence[int]) -> None:
        """A run's seeds of these `numbers`."""
        lines = _by_number(run, log)
        self.runs.append(run)
        self.logs.append(log)
        self.places.update(dict.fromkeys(numbers, run))
        self.lines.extend(line for line in lines if line["seed"] in numbers)


def merge(played: Sequence[tuple[Run, Lines]]) -> tuple[list[Sample], list[str]]:
    """The runs with their lines as samples, in their order, and a line of words for each decision.

    A run joins the first sample from which nothing but seeds tells it (`runs.alike.changes`, and the
    checkpoint that was evaluated) and to which it adds a seed. A seed number that is there already was
    trained twice, and the first one counts; a run that has no other stays a sample of its own.
    """
    samples: list[Sample] = []
    notes: list[str] = []
    for run, log in played:
        named = _by_number(run, log)
        numbers = sorted({line["seed"] for line in named})
        for sample in samples:
            new = [number for number in numbers if number not in sample.places]
            if new and _is_same_training(sample.run, run) and not _apart(sample, run, named):
                notes += _of_doubles(sample, run, numbers)
                sample._add(run, log, new)
                break
        else:
            notes += _why_apart(samples, run, named, numbers)
            alone = Sample([], [], [], {})
            alone._add(run, log, numbers)
            samples.append(alone)
    return samples, [*map(_of_sample, (one for one in samples if len(one.runs) > 1)), *notes]


def unreported(run: Evaluated, seeds: int) -> Iterator[str]:
    """A line for each selected weight that fewer than `seeds` seeds of a sample have reported.

    As where each folder has reported the weight that its own seeds select.
    """
    chosen: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in run.rows:
        if row["selected"] and row["task"] != ALL_TASKS:
            arm = (row["env"], row["task"], Arm.of(row))
            chosen.setdefault(arm, {})[row["split"]] = row
    for (env, task, arm), rows in chosen.items():
        count = rows["report"]["seeds"] if "report" in rows else 0
        if count < seeds:
            yield (
                f"{env}, task {task}, {arm.sampler.label}: {count} of {seeds} seeds have reported "
                f"weight {arm.weight:g}, which is selected: `qgf evaluate --weights={arm.weight:g}` of "
                "each folder plays what is missing"
            )


def _by_number(run: Run, log: Lines) -> list[Line]:
    """The episodes of a run by the numbers that its seeds were trained with."""
    first = run.config["seed"]
    return [{**line, "seed": first + line["seed"]} for line in log.records]


def _is_same_training(run: Run, other: Run) -> bool:
    return all(run.config[key] == other.config[key] for key in ("env", "algorithm", "critic"))


def _apart(sample: Sample, run: Run, lines: Sequence[Line]) -> list[str]:
    """What tells a run from a sample, the checkpoint that was evaluated last."""
    ours, theirs = newest(sample.lines), newest(lines)
    steps = [
        f"checkpoint of {env}: {ours[env]} -> {theirs[env]}"
        for env in sorted(ours.keys() & theirs.keys()) if ours[env] != theirs[env]
    ]  # fmt: skip
    return changes(sample.run, run) + steps


def _why_apart(
    samples: Sequence[Sample], run: Run, lines: Sequence[Line], numbers: Sequence[int]
) -> list[str]:
    """A line about the sample that a reader would expect a run to join, if there is one."""
    alike = [one for one in samples if one.places and _is_same_training(one.run, run)]
    found = sorted(((_apart(one, run, lines), one) for one in alike), key=lambda x: len(x[0]))
    if not found or not numbers:
        return []
    (first, *more), sample = found[0][0] or [""], found[0][1]
    here, there = run.workdir, sample.run.workdir
    if {*numbers} <= sample.places.keys():
        same = f"{here} has trained {_seeds(numbers)} again, which {sample.folders} has"
        return [] if first else [f"{same}: no seed counts twice, so it is a line of its own"]
    rest = f" (and {len(more)} more)" if more else ""
    return [f"{here} is no further seed of {there}: {first}{rest}"]


def _of_sample(sample: Sample) -> str:
    folders = ", ".join(run.workdir.name for run in sample.runs)
    unknown = dict.fromkeys(text for run in sample.runs[1:] for text in doubts(sample.run, run))
    more = f"; taken for one code, but {'; '.join(unknown)}" if unknown else ""
    return f"{_seeds(sorted(sample.places))} of {folders} are one sample{more}"


def _of_doubles(sample: Sample, run: Run, numbers: Sequence[int]) -> Iterator[str]:
    """A line about the seeds that a run has trained again."""
    again = [number for number in numbers if number in sample.places]
    if again:
        there = ", ".join({str(sample.places[number].workdir): None for number in again})
        yield f"{run.workdir} has trained {_seeds(again)} again: counted once, as in {there}"


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
