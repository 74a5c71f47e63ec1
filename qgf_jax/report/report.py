"""Tables, plots and pages from a run's lines or their record, and from nothing else."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.errors import ELSEWHERE, UserError, log, saving
from qgf_jax.evaluation import paired, summary
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.evaluation.over_tasks import aggregate
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import by_arm, newest
from qgf_jax.report import run_page
from qgf_jax.report.page import Cell
from qgf_jax.report.tables import Table, add_optimism
from qgf_jax.runs.files import Lines, write_atomically
from qgf_jax.runs.metrics import MetricsLog
from qgf_jax.runs.run import Run

_ELSEWHERE = "give --out=NAME, which writes the table alone"


def write(workdir: str | os.PathLike, baseline: str | None = None) -> str:
    """Writes `report/`: summary.json, table.md, table.csv, plots, two pages. The table as text.

    Only the newest evaluated checkpoint counts, and only lines that are episodes; the report says what
    it leaves out. `baseline` is what rows are compared with, see `paired.compare`. Raises `UserError` if
    nothing was evaluated or there is no such arm, `SaveError` if it cannot be written.
    """
    run = Run.open(workdir)
    lines, metrics = EpisodeLog.require(run), MetricsLog.read(run.metrics)
    lines.warn()
    own = _evaluated(run, lines)
    found = Reported(run, lines, metrics, own, _table(own, baseline))
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
    def of(cls, run: Run, baseline: str | None) -> "Reported":
        """Of a run among several, which may lack the `baseline` and has its own then. Says nothing."""
        lines, metrics = EpisodeLog.require(run), MetricsLog.read(run.metrics)
        own = _evaluated(run, lines)
        has_arm = baseline and any(
            row["split"] == "report" and row["selected"]
            and paired.rank_as_baseline(Arm.of(row).sampler, baseline) is not None
            for row in own.rows
        )  # fmt: skip
        return cls(run, lines, metrics, own, _table(own, baseline if has_arm else None))

    def write(self, folder: Path, elsewhere: str = ELSEWHERE, ways: Sequence[Cell] = ()) -> str:
        """Writes summary.json, table.md, table.csv, plots and pages into `folder`; the table as text.

        `ways` are links to other pages. Raises `SaveError` with the advice
        `elsewhere`.
        """
        # Matplotlib, which an error should not wait for.
        from qgf_jax.report import plots

        run, table = self.run, self.table
        notes = [*_notes(self.lines), *filter(None, [self.metrics.note()])]
        films = run_page.films_of(run)
        with saving(folder, elsewhere):
            folder.mkdir(parents=True, exist_ok=True)
            episodes = summary.unique(self.lines.records)
            figures = plots.draw(run, table.rows, folder, episodes, self.metrics.records)
            run_page.copy_films(films, folder)
        pages = run_page.Pages(run, self.own, table, figures, notes, films)
        text = "\n\n".join([table.markdown(), *notes])
        for name, content in {
            "summary.json": json.dumps(self._summary(), indent=1) + "\n",
            "table.md": text + "\n",
            "table.csv": table.csv(),
            run_page.EPISODES: pages.episodes(),
            "index.html": pages.results(ways),
        }.items():
            write_atomically(folder / name, content, elsewhere)
        return text

    def _summary(self) -> dict[str, Any]:
        return {
            "rows": self.table.rows,
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
    return _evaluated(run, lines, trained_as)


def _evaluated(run: Run, lines: Lines, trained_as: str = "") -> Evaluated:
    references = _references(run)
    rows = summary.summarize(lines.records, references)
    add_optimism(rows)
    return Evaluated(rows, by_arm(lines.records), run.workdir.name, trained_as, references)


def _table(own: Evaluated, baseline: str | None) -> Table:
    own = own._replace(name="")
    paired.compare([own], baseline)
    return Table(own.rows, aggregate([own], baseline))


class Together(NamedTuple):
    """Several runs as one table, the selected report rows alone."""

    table: Table
    names: Sequence[str]
    """How the table calls each run, in the order given."""
    notes: Sequence[str]
    """What it leaves out."""

    @classmethod
    def of(cls, opened: Sequence[Run], baseline: str | None = None) -> "Together":
        """What a run was trained as is a column, since one method may act with several trainings.

        That is algorithm and critic, and the folder where these two do not tell the runs apart.
        `baseline` is what rows are compared with, see `paired.compare`: seeds of two runs are the same
        where they were trained with the same number. Raises `UserError` if there is no such arm.
        """
        names = [*map(_trained_as, opened)]
        names = [
            f"{n} ({r.workdir.name})" if names.count(n) > 1 else n for n, r in zip(names, opened)
        ]
        runs: list[Evaluated] = []
        notes: list[str] = []
        for name, run in zip(names, opened, strict=True):
            lines = EpisodeLog.read(run)
            notes += [f"{name}: {note}" for note in _notes(lines)]
            lines.warn()
            runs.append(_selected_reports(name, run, lines))
        rows = [row for one in runs for row in one.rows]
        if not rows:
            where = ", ".join(str(run.workdir) for run in opened)
            raise UserError(f"{where}: nothing selected and reported: run `qgf evaluate`")
        paired.compare(runs, baseline)
        rows.sort(
            key=lambda row: (row["env"], row["task"], -(row["success"] or row["return"])["mean"])
        )
        return cls(Table(rows, aggregate(runs, baseline)), names, notes)

    @property
    def text(self) -> str:
        """The table as Markdown, and what it leaves out."""
        return "\n\n".join([self.table.markdown(), *self.notes])

    def write(self, markdown: Path, commas: Path) -> None:
        """Writes both files. Raises `SaveError`."""
        write_atomically(markdown, self.text + "\n")
        write_atomically(commas, self.table.csv())


def compare(
    workdirs: Sequence[str | os.PathLike], out: str | os.PathLike, baseline: str | None = None
) -> str:
    """One table of several runs, see `Together`: OUT.md and OUT.csv, and its text."""
    found = Together.of([Run.open(workdir) for workdir in workdirs], baseline)
    found.write(Path(f"{out}.md"), Path(f"{out}.csv"))
    return found.text


def _trained_as(run: Run) -> str:
    return f"{run.config['algorithm']}, {run.config['critic']}"


def _references(run: Run) -> list[float] | None:
    """The returns that count as 0 and 1, where the run's data say them."""
    found = [*(run.dataset.get("references") or ())]
    if len(found) == 2 and all(map(Lines.is_number, found)) and found[0] < found[1]:
        return found
    return None


def _selected_reports(name: str, run: Run, lines: Lines) -> Evaluated:
    """The report rows of selected weights, by the numbers that seeds were trained with."""
    first = run.config["seed"]
    records = [{**line, "seed": first + line["seed"]} for line in lines.records]
    rows = summary.summarize(records, _references(run))
    add_optimism(rows)
    _warn(Table(rows))
    chosen = [row for row in rows if row["selected"] and row["split"] == "report"]
    named = [{"trained_as": name, **row} for row in chosen]
    return Evaluated(named, by_arm(records), name, _trained_as(run), _references(run))


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
    for line in table.gaps():
        again = ": `qgf evaluate` of all these weights together plays them" * (
            "are missing" in line
        )
        log(f"qgf: warning: {line}{again}")
