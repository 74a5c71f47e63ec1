"""Several run folders as one sample of seeds, where nothing else tells them apart. No JAX."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from qgf_jax.evaluation.played import newest
from qgf_jax.runs.alike import Comparison
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
    def trained_as(self) -> str:
        """Algorithm and critic, as tables write them."""
        return f"{self.run.config['algorithm']}, {self.run.config['critic']}"

    @property
    def folders(self) -> str:
        """Their names, for a table."""
        first, *more = (run.workdir.name for run in self.runs)
        return f"{first} and {len(more)} more" if len(more) > 2 else " + ".join((first, *more))

    @classmethod
    def merge(cls, played: Sequence[tuple[Run, Lines]]) -> tuple[list["Sample"], list[str]]:
        """The runs with their lines as samples, in their order, and a line of words for each decision.

        A run joins the first sample from which nothing but seeds tells it (`Comparison.changes`, and
        the checkpoint that was evaluated) and to which it adds a seed. A seed number that is there
        already was trained twice, and the first one counts; a run that has no other stays a sample of
        its own.
        """
        samples: list[Sample] = []
        notes: list[str] = []
        for run, log in played:
            one = _Played.of(run, log)
            for sample in samples:
                new = [number for number in one.numbers if number not in sample.places]
                if new and _is_same_training(sample, one) and not apart(sample, one):
                    notes += _of_doubles(sample, one)
                    sample._add(one, new)
                    break
            else:
                notes += _why_apart(samples, one)
                alone = cls([], [], [], {})
                alone._add(one, one.numbers)
                samples.append(alone)
        merged = [_of_sample(sample) for sample in samples if len(sample.runs) > 1]
        return samples, merged + notes

    def _add(self, one: "_Played", numbers: Sequence[int]) -> None:
        """A run's seeds of these `numbers`."""
        self.runs.append(one.run)
        self.logs.append(one.log)
        self.places.update(dict.fromkeys(numbers, one.run))
        self.lines.extend(line for line in one.lines if line["seed"] in numbers)

    def holds(self, run: Run) -> bool:
        """Whether the run is one of its own."""
        return any(run is one for one in self.runs)


class _Played(NamedTuple):
    """A run that may join a sample."""

    run: Run
    log: Lines
    lines: list[Line]
    """Its episodes, by the numbers that its seeds were trained with."""
    numbers: list[int]

    @classmethod
    def of(cls, run: Run, log: Lines) -> "_Played":
        first = run.config["seed"]
        lines: list[Line] = [{**line, "seed": first + line["seed"]} for line in log.records]
        return cls(run, log, lines, sorted({line["seed"] for line in lines}))


def _is_same_training(sample: Sample, one: _Played) -> bool:
    keys = ("env", "algorithm", "critic")
    return all(sample.run.config[key] == one.run.config[key] for key in keys)


def apart(sample: Sample, one: "Sample | _Played", but: Sequence[str] = ()) -> list[str]:
    """What tells a sample, or a run, from another beside seeds and the config keys `but`.

    As `Comparison.changes`, and the checkpoint that was evaluated last.
    """
    ours, theirs = newest(sample.lines), newest(one.lines)
    steps = [
        f"checkpoint of {env}: {ours[env]} -> {theirs[env]}"
        for env in sorted(ours.keys() & theirs.keys()) if ours[env] != theirs[env]
    ]  # fmt: skip
    return Comparison(sample.run, one.run).changes(but) + steps


def _why_apart(samples: Sequence[Sample], one: _Played) -> list[str]:
    """A line about the sample that a reader would expect a run to join, if there is one."""
    alike = [sample for sample in samples if sample.places and _is_same_training(sample, one)]
    if not alike or not one.numbers:
        return []
    found = ((apart(sample, one), sample) for sample in alike)
    reasons, sample = min(found, key=lambda pair: len(pair[0]))
    here, there = one.run.workdir, sample.run.workdir
    if {*one.numbers} <= sample.places.keys():
        same = f"{here} has trained {_seeds(one.numbers)} again, which {sample.folders} has"
        again = [f"{same}: no seed counts twice, so it is a line of its own"]
        return [] if reasons else again
    first, *more = reasons
    rest = f" (and {len(more)} more)" if more else ""
    return [f"{here} is no further seed of {there}: {first}{rest}"]


def _of_sample(sample: Sample) -> str:
    folders = ", ".join(run.workdir.name for run in sample.runs)
    unknown = dict.fromkeys(
        text for run in sample.runs[1:] for text in Comparison(sample.run, run).doubts()
    )
    more = f"; taken for one code, but {'; '.join(unknown)}" if unknown else ""
    return f"{_seeds(sorted(sample.places))} of {folders} are one sample{more}"


def _of_doubles(sample: Sample, one: _Played) -> Iterator[str]:
    """A line about the seeds that a run has trained again."""
    again = [number for number in one.numbers if number in sample.places]
    if again:
        there = ", ".join({str(sample.places[number].workdir): None for number in again})
        yield f"{one.run.workdir} has trained {_seeds(again)} again: counted once, as in {there}"


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
