"""Tables, plots and pages from a run's lines or their record, and from nothing else."""

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.errors import ELSEWHERE, UserError, log, saving
from qgf_jax.evaluation import paired, selection_cost, summary
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.evaluation.over_tasks import aggregate
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import by_arm, newest
from qgf_jax.evaluation.selected_on import mark_as
from qgf_jax.evaluation.selected_on import select_on as select_on_tasks
from qgf_jax.report import cost, merged, run_page
from qgf_jax.report.films import Films
from qgf_jax.report.page import Cell
from qgf_jax.report.tables import Table, add_optimism
from qgf_jax.report.tuned import Chosen, Family, TunedKey, families
from qgf_jax.runs.alike import Comparison
from qgf_jax.runs.files import Lines, write_atomically
from qgf_jax.runs.metrics import MetricsLog
from qgf_jax.runs.run import Run

_ELSEWHERE = "give --out=NAME, which writes the table alone"
_CURVE = "steps.csv"
_WARNINGS = 4
"""Lines of warnings that a command gives at most, beside how many more there are."""
"""Selected report rows of all checkpoints that were evaluated."""


def write(
    workdir: str | os.PathLike, baseline: str | None = None, select_on: Sequence[int] = ()
) -> str:
    """Writes `report/`: summary.json, table.md, table.csv, plots, two pages. The table as text.

    Only the newest evaluated checkpoint counts, and only lines that are episodes; the report says what
    it leaves out. Where several checkpoints were evaluated, steps.csv and steps.png have them all.
    `baseline` is what rows are compared with, see `paired.compare`. With `select_on`, tasks, a weight
    is chosen on these alone, see `selected_on.select_on`. Raises `UserError` if nothing was evaluated,
    there is no such arm or `select_on` lacks episodes, `SaveError` if it cannot be written.
    """
    run = Run.open(workdir)
    lines, metrics = EpisodeLog.require(run), MetricsLog.read(run.metrics)
    lines.warn()
    own = _evaluated(run, lines)
    if select_on:
        select_on_tasks([own], select_on)
    found = Reported(run, lines, metrics, own, _table(own, baseline, select_on))
    metrics.warn()
    _warn(found.table)
    return found.write(run.workdir / "report", _ELSEWHERE)


class Reported(NamedTuple):
    """What a report of a run is made of."""

    run: Run
    lines: Lines
    metrics: Lines
    own: Evaluated
    table: Table

    @classmethod
    def of(
        cls, run: Run, baseline: str | None, select_on: Sequence[int], together: Evaluated
    ) -> "Reported":
        """Of a run among several, which may lack the `baseline` and has its own then. Says nothing.

        With `select_on` it has the weights that were chosen for what it has played `together`.
        """
        lines, metrics = EpisodeLog.require(run), MetricsLog.read(run.metrics)
        own = _evaluated(run, lines)
        if select_on:
            mark_as(own, together)
        has_arm = baseline and any(
            row["split"] == "report" and row["selected"]
            and Arm.of(row).sampler.rank_as_baseline(baseline) is not None
            for row in own.rows
        )  # fmt: skip
        made = _table(own, baseline if has_arm else None, select_on)
        return cls(run, lines, metrics, own, made)

    def write(self, folder: Path, elsewhere: str = ELSEWHERE, ways: Sequence[Cell] = ()) -> str:
        """Writes summary.json, the tables, plots and pages into `folder`; the table as text.

        `ways` are links to other pages. Raises `SaveError` with the advice `elsewhere`.
        """
        costs = selection_cost.curves(self.own, self.table.select_on)
        by_step, notes = self._by_step(), self._notes()
        films = Films.of(self.run)
        with saving(folder, elsewhere):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _CURVE).unlink(missing_ok=True)  # of an earlier report
            figures = self._draw(folder, by_step, costs)
            films.copy(folder)
        pages = run_page.Pages(self.run, self.own, self.table, figures, notes, films, costs)
        text = "\n\n".join(filter(None, [self.table.markdown(), cost.markdown(costs), *notes]))
        for name, content in {
            "summary.json": json.dumps(self._summary(costs), indent=1) + "\n",
            "table.md": text + "\n",
            "table.csv": self.table.csv(),
            **({_CURVE: Table(by_step).csv()} if by_step else {}),
            run_page.EPISODES: pages.episodes(),
            "index.html": pages.results(ways),
        }.items():
            write_atomically(folder / name, content, elsewhere)
        return text

    def _by_step(self) -> list[summary.Row]:
        """Of a learning curve; none where one checkpoint alone was evaluated."""
        several = _earlier(self.lines)
        return summary.by_step(self.lines.records, _references(self.run)) if several else []

    def _notes(self) -> list[str]:
        """What the tables leave out, and what was chosen but not reported."""
        chosen = self.own.unreported(1) if self.table.select_on else ()
        return [*_notes(self.lines), *filter(None, [self.metrics.note()]), *chosen]

    def _draw(
        self, folder: Path, by_step: Sequence[summary.Row], costs: Sequence[dict[str, Any]]
    ) -> list[tuple[str, Path]]:
        from qgf_jax.report import plots  # Matplotlib, which an error should not wait for

        episodes, metrics = summary.unique(self.lines.records), self.metrics.records
        figures = plots.draw(self.run, self.table.rows, folder, episodes, metrics, by_step)
        return figures + cost.draw(costs, folder / "selection_cost.png")

    def _summary(self, costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        select_on = [*self.table.select_on]
        return {
            "rows": self.table.rows,
            "selection_cost": costs,
            **({"select_on": select_on} if select_on else {}),
            "optimistic": self.table.optimistic(),
            "aggregates": self.table.aggregates,
            "left_out": [
                {"file": found.path.name, **one._asdict()}
                for found in (self.lines, self.metrics)
                for one in found.left_out
            ],
            "earlier_checkpoints": _earlier(self.lines),
            "versions": Run.versions(self.run.config["env"]),
        }


def table(workdir: str | os.PathLike, baseline: str | None = None) -> Table:
    """The table of a run or of its record, as `write` has it. Writes nothing; raises as `write` does."""
    return _table(evaluated(workdir), baseline)


def evaluated(workdir: str | os.PathLike, trained_as: str = "") -> Evaluated:
    """What a run, or its record, has played; `trained_as` is how tables of several runs call it."""
    run = Run.open(workdir)
    lines = EpisodeLog.require(run)
    lines.warn()
    found = _evaluated(run, lines, trained_as)
    add_optimism(found.rows)
    return found


def _evaluated(run: Run, lines: Lines, trained_as: str = "") -> Evaluated:
    references = _references(run)
    rows = summary.summarize(lines.records, references)
    return Evaluated(rows, by_arm(lines.records), run.workdir.name, trained_as, references)


def _table(own: Evaluated, baseline: str | None, select_on: Sequence[int] = ()) -> Table:
    """Of one run, whose weights are chosen."""
    add_optimism(own.rows)
    own = own._replace(name="")
    paired.compare([own], baseline)
    return Table(own.rows, aggregate([own], baseline), select_on)


class Together(NamedTuple):
    """Several runs as one table, the selected report rows alone."""

    table: Table
    played: Sequence[Evaluated]
    """All rows of each sample of seeds, which is mostly one run. Tables call it by its `name`."""
    places: Sequence[int]
    """Which of `played` each run belongs to, in the order given."""
    notes: Sequence[str]
    """What is one sample, what was tried, and what the table leaves out."""
    tuned: Sequence[Mapping[str, Any]] = ()
    """What was tried of each method and task where a configuration was chosen."""

    @classmethod
    def of(
        cls,
        opened: Sequence[Run],
        baseline: str | None = None,
        select_on: Sequence[int] = (),
        tuned: Sequence[TunedKey] = (),
    ) -> "Together":
        """What a run was trained as is a column, since one method may act with several trainings.

        That is algorithm and critic, and the folder where these two do not tell the runs apart. Runs
        that nothing but seeds tells apart are one, see `Sample.merge`. `baseline` is what rows are
        compared with, see `paired.compare`: seeds of two runs are the same where they were trained with
        the same number. With `select_on`, tasks, a weight is chosen on these alone, see
        `selected_on.select_on`. Runs that differ in `tuned` keys alone are configurations: the table has
        the one that is chosen of them, see `tuned.Family`. Raises `UserError` if there is no such arm,
        or if what `select_on` or `tuned` needs was not played.
        """
        samples, notes = merged.Sample.merge([(run, EpisodeLog.read(run)) for run in opened])
        tried = families(samples, tuned) if tuned else []
        names = _names(samples, tried)
        played: list[Evaluated] = []
        for name, sample in zip(names, samples, strict=True):
            notes += _notes_of(name, sample)
            played.append(_evaluated_sample(name, sample))
        if select_on:
            _choose(samples, played, select_on)
        chosen = [family.choose(played) for family in tried]
        notes += [note for one in chosen for note in one.notes]
        shown = _shown(samples, played, tried, chosen)
        notes += _unreported(shown, bool(select_on))
        runs = [_selected_reports(one.run) for one in shown]
        rows = [row for one in runs for row in one.rows]
        if not rows:
            raise _nothing_reported(opened)
        paired.compare(runs, baseline)
        rows.sort(key=_rank)
        places = [next(i for i, one in enumerate(samples) if one.holds(run)) for run in opened]
        table, records = (
            Table(rows, aggregate(runs, baseline), select_on),
            [c.records for c in chosen],
        )
        return cls(table, played, places, notes, [*itertools.chain(*records)])

    @property
    def text(self) -> str:
        """The table as Markdown, and what it leaves out."""
        return "\n\n".join([self.table.markdown(), *self.notes])

    def write(self, markdown: Path, commas: Path, summary: Path) -> None:
        """Writes the three files. Raises `SaveError`."""
        write_atomically(markdown, self.text + "\n")
        write_atomically(commas, self.table.csv())
        write_atomically(summary, json.dumps(self._summary(), indent=1) + "\n")

    def _summary(self) -> dict[str, Any]:
        return {
            "rows": self.table.rows,
            "tuned": self.tuned,
            "aggregates": self.table.aggregates,
            "notes": self.notes,
        }


def compare(
    workdirs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    baseline: str | None = None,
    select_on: Sequence[int] = (),
    tuned: Sequence[TunedKey] = (),
) -> str:
    """One table of several runs, see `Together.of`: OUT.md, OUT.csv and OUT.json, and its text."""
    found = Together.of([Run.open(workdir) for workdir in workdirs], baseline, select_on, tuned)
    found.write(*(Path(f"{out}.{kind}") for kind in ("md", "csv", "json")))
    return found.text


def _nothing_reported(runs: Sequence[Run]) -> UserError:
    where = ", ".join(str(run.workdir) for run in runs)
    return UserError(f"{where}: nothing selected and reported: run `qgf evaluate`")


def _names(samples: Sequence[merged.Sample], tried: Sequence[Family]) -> list[str]:
    """How a table calls each sample: as it was trained, where that is not enough its folders too.

    A configuration that was tried has its values.
    """
    words = {one.place: f", {one.words}" for family in tried for one in family.configurations}
    names = [one.trained_as + words.get(place, "") for place, one in enumerate(samples)]
    longer = [f"{n} ({s.folders})" for n, s in zip(names, samples)]
    whole = [f"{n} ({s.run.workdir.parent.name}/{s.folders})" for n, s in zip(names, samples)]
    longer = [w if longer.count(one) > 1 else one for one, w in zip(longer, whole)]
    return [one if names.count(n) > 1 else n for n, one in zip(names, longer)]


def _notes_of(name: str, sample: merged.Sample) -> list[str]:
    """What the lines of a sample's runs lack, which is said on standard error too."""
    notes = []
    for run, lines in zip(sample.runs, sample.logs, strict=True):
        whose = name if len(sample.runs) == 1 else run.workdir.name
        notes += [f"{whose}: {note}" for note in _notes(lines)]
        lines.warn()
    return notes


def _references(run: Run) -> list[float] | None:
    """The returns that count as 0 and 1, where the run's data say them."""
    found = [*(run.dataset.get("references") or ())]
    if len(found) == 2 and all(map(Lines.is_number, found)) and found[0] < found[1]:
        return found
    return None


def _evaluated_sample(name: str, sample: merged.Sample) -> Evaluated:
    """All rows, by the numbers that seeds were trained with."""
    references = _references(sample.run)
    rows = summary.summarize(sample.lines, references)
    _warn(Table(rows))
    return Evaluated(rows, by_arm(sample.lines), name, sample.trained_as, references)


def _rank(row: summary.Row) -> tuple[str, int, float]:
    """Rows by environment and task, the best on top."""
    return row["env"], row["task"], -(row["success"] or row["return"])["mean"]


def _choose(
    samples: Sequence[merged.Sample], runs: Sequence[Evaluated], tasks: Sequence[int]
) -> None:
    """Marks what `tasks` select, over the runs together that but for the task are trained alike."""
    left = [*zip(samples, runs, strict=True)]
    while left:
        first = left[0][0].run
        domain = [
            one for one in left if not Comparison(first, one[0].run).config_changes(but=("env",))
        ]
        select_on_tasks([run for _, run in domain], tasks)
        left = [one for one in left if not any(one is other for other in domain)]


class _Shown(NamedTuple):
    """What a table of several runs is of: a sample, or what was chosen of several."""

    sample: merged.Sample
    run: Evaluated
    is_chosen: bool = False


def _shown(
    samples: Sequence[merged.Sample],
    played: Sequence[Evaluated],
    tried: Sequence[Family],
    chosen: Sequence[Chosen],
) -> list[_Shown]:
    """In the order of the samples; what was chosen of several stands where the first of them does."""
    found = {place: _Shown(*one) for place, one in enumerate(zip(samples, played, strict=True))}
    for family, one in zip(tried, chosen, strict=True):
        first, *others = sorted(each.place for each in family.configurations)
        found[first] = _Shown(samples[first], one.run, is_chosen=True)
        for place in others:
            del found[place]
    return [*found.values()]


def _unreported(shown: Sequence[_Shown], chosen: bool) -> list[str]:
    """A line for each weight that some have not reported; of one folder if it was `chosen` elsewhere."""
    return [
        f"{one.run.name}: {note}"
        for one in shown if chosen or one.is_chosen or len(one.sample.runs) > 1
        for note in one.run.unreported(len(one.sample.places))
    ]  # fmt: skip


def _selected_reports(run: Evaluated) -> Evaluated:
    """The report rows of selected weights alone."""
    add_optimism(run.rows)
    chosen = [row for row in run.rows if row["selected"] and row["split"] == "report"]
    return run._replace(rows=[{"trained_as": run.name, **row} for row in chosen])


def _notes(lines: Lines) -> list[str]:
    """What a report says of lines that are not in it."""
    earlier = _earlier(lines)
    older = f"{lines.path.name}: {earlier} lines of earlier checkpoints left out" if earlier else ""
    return [note for note in (lines.note(), older) if note]


def _earlier(lines: Lines) -> int:
    """How many episodes are of checkpoints before the newest one of their environment."""
    steps = newest(lines.records)
    return sum(line["step"] < steps[line["env"]] for line in lines.records)


def _warn(table: Table) -> None:
    """Says what rows lack; of many, as where few episodes chose the weights, the first ones."""
    gaps = table.gaps()
    for line in gaps[:_WARNINGS]:
        again = ": `qgf evaluate` of all these weights together plays them" * (
            "are missing" in line
        )
        log(f"qgf: warning: {line}{again}")
    if (more := len(gaps) - _WARNINGS) > 0:
        log(f"qgf: warning: {more} more lines like these, which each run's own report has whole")
