"""Tables, plots and one page from a run's lines or their record, and from nothing else."""

import base64
import html
import json
import os
from collections.abc import Sequence
from pathlib import Path

from qgf_jax.errors import UserError, log, saving
from qgf_jax.evaluation import paired, selection_cost, summary
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.evaluation.over_tasks import aggregate
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import by_arm, newest
from qgf_jax.evaluation.selected_on import select_on as select_on_tasks
from qgf_jax.report import cost, merged
from qgf_jax.report.tables import Table, add_optimism
from qgf_jax.runs.alike import config_changes
from qgf_jax.runs.files import Lines, write_atomically
from qgf_jax.runs.metrics import MetricsLog
from qgf_jax.runs.run import Run

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.3em .8em;border-bottom:1px solid #ddd}
th{text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}
tr.selected{background:#eaf3fb;font-weight:600}figure{margin:2em 0}img,video{max-width:100%}
figcaption{color:#555}pre{background:#f6f6f6;padding:1em;overflow:auto;font-size:12px}
"""
_ELSEWHERE = "give --out=NAME, which writes the table alone"
_CURVE = "steps.csv"
"""Selected report rows of all checkpoints that were evaluated."""


def write(
    workdir: str | os.PathLike, baseline: str | None = None, select_on: Sequence[int] = ()
) -> str:
    """Writes `report/`: summary.json, table.md, table.csv, plots, index.html. The table as text.

    Only the newest evaluated checkpoint counts, and only lines that are episodes; the report says what
    it leaves out. Where several checkpoints were evaluated, steps.csv and steps.png have them all.
    `baseline` is what rows are compared with, see `paired.compare`. With `select_on`, tasks, a weight
    is chosen on these alone, see `selected_on.select_on`. Raises `UserError` if nothing was evaluated,
    there is no such arm or `select_on` lacks episodes, `SaveError` if it cannot be written.
    """
    run = Run.open(workdir)
    lines, metrics = EpisodeLog.require(run), MetricsLog.read(run.metrics)
    lines.warn()
    own = _evaluated(run, lines, select_on=select_on)
    table, curves = _table(own, baseline, select_on), selection_cost.curves(own, select_on)
    rows = table.rows
    metrics.warn()
    _warn(table)
    chosen = merged.unreported(own, 1) if select_on else ()
    notes = [*_notes(lines), *filter(None, [metrics.note()]), *chosen]
    from qgf_jax.report import plots  # Matplotlib, which an error should not wait for

    folder, episodes = run.workdir / "report", summary.unique(lines.records)
    curve = summary.by_step(lines.records, _references(run)) if _earlier(lines) else []
    with saving(folder, _ELSEWHERE):
        folder.mkdir(exist_ok=True)
        (folder / _CURVE).unlink(missing_ok=True)  # of an earlier report
        figures = plots.draw(run, rows, folder, episodes, metrics.records, curve)
        figures += cost.draw(curves, folder / "selection_cost.png")
    text = "\n\n".join([table.markdown(), *filter(None, [cost.markdown(curves)]), *notes])
    record = {
        "rows": rows,
        "selection_cost": curves,
        **({"select_on": [*select_on]} if select_on else {}),
        "optimistic": table.optimistic(),
        "aggregates": table.aggregates,
        "left_out": [
            {"file": found.path.name, **one._asdict()}
            for found in (lines, metrics)
            for one in found.left_out
        ],
        "earlier_checkpoints": _earlier(lines),
        "versions": Run.versions(run.config["env"]),
    }
    for name, content in {
        "summary.json": json.dumps(record, indent=1) + "\n",
        "table.md": text + "\n",
        "table.csv": table.csv(),
        **({_CURVE: Table(curve).csv()} if curve else {}),
        "index.html": _page(run, table, figures, notes, cost.page(curves)),
    }.items():
        write_atomically(folder / name, content, _ELSEWHERE)
    return text


def table(workdir: str | os.PathLike, baseline: str | None = None) -> Table:
    """The table of a run or of its record, as `write` has it. Writes nothing; raises as `write` does."""
    return _table(evaluated(workdir), baseline)


def evaluated(workdir: str | os.PathLike, trained_as: str = "") -> Evaluated:
    """What a run, or its record, has played; `trained_as` is how tables of several runs call it."""
    run = Run.open(workdir)
    lines = EpisodeLog.require(run)
    lines.warn()
    return _evaluated(run, lines, trained_as)


def _evaluated(
    run: Run, lines: Lines, trained_as: str = "", select_on: Sequence[int] = ()
) -> Evaluated:
    references = _references(run)
    rows = summary.summarize(lines.records, references)
    own = Evaluated(rows, by_arm(lines.records), run.workdir.name, trained_as, references)
    if select_on:
        select_on_tasks([own], select_on)
    add_optimism(rows)
    return own


def _table(own: Evaluated, baseline: str | None, select_on: Sequence[int] = ()) -> Table:
    own = own._replace(name="")
    paired.compare([own], baseline)
    return Table(own.rows, aggregate([own], baseline), select_on)


def compare(
    workdirs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    baseline: str | None = None,
    select_on: Sequence[int] = (),
) -> str:
    """One table of several runs, the selected report rows alone: OUT.md and OUT.csv, and its text.

    What a run was trained as is a column, since one method may act with several trainings: algorithm and
    critic, and its folder where these two do not tell the runs apart. Runs that nothing but seeds tells
    apart are one, see `merged.merge`. `baseline` is what rows are compared with, see `paired.compare`:
    seeds of two runs are the same where they were trained with the same number. With `select_on`,
    tasks, a weight is chosen on these alone, see `selected_on.select_on`. Raises `UserError` if there is
    no such arm, or if what `select_on` needs was not played.
    """
    opened = [Run.open(workdir) for workdir in workdirs]
    samples, notes = merged.merge([(run, EpisodeLog.read(run)) for run in opened])
    names = [_trained_as(sample.run) for sample in samples]
    names = [f"{n} ({s.folders})" if names.count(n) > 1 else n for n, s in zip(names, samples)]
    whole: list[Evaluated] = []
    for name, sample in zip(names, samples, strict=True):
        for run, lines in zip(sample.runs, sample.logs, strict=True):
            whose = name if len(sample.runs) == 1 else run.workdir.name
            notes += [f"{whose}: {note}" for note in _notes(lines)]
            lines.warn()
        whole.append(_evaluated_sample(name, sample))
    notes += _choose(samples, whole, select_on)
    runs = [_selected_reports(one) for one in whole]
    rows = [row for one in runs for row in one.rows]
    if not rows:
        raise UserError(
            f"{', '.join(map(str, workdirs))}: nothing selected and reported: run `qgf evaluate`"
        )
    paired.compare(runs, baseline)
    rows.sort(key=lambda row: (row["env"], row["task"], -(row["success"] or row["return"])["mean"]))
    table = Table(rows, aggregate(runs, baseline), select_on)
    text = "\n\n".join([table.markdown(), *notes])
    write_atomically(Path(f"{out}.md"), text + "\n")
    write_atomically(Path(f"{out}.csv"), table.csv())
    return text


def _page(
    run: Run,
    table: Table,
    figures: Sequence[tuple[str, Path]],
    more: Sequence[str] = (),
    costs: str = "",
) -> str:
    """The report as one self-contained HTML page. `more` says what the tables leave out."""
    env = html.escape(run.config["env"])
    films = sorted(p for p in (run.workdir / "report" / "videos").glob("*.gif") if p.is_file())
    pictures = [(caption, path, "png") for caption, path in figures]
    pictures += [(path.stem.replace("_", " "), path, "gif") for path in films]
    body = "".join(
        f'<figure><img src="data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"'
        f' alt="{html.escape(caption)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for caption, path, kind in pictures
    )
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in [*table.notes(), *more])
    of_success = (
        " Of successes, intervals are never narrower than the Wilson interval of the distinct episodes."
        * any(row["success"] for row in table.rows)
    )
    record = html.escape((run.workdir / "config.json").read_text())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{env}</title>'
        f"<style>{_STYLE}</style><h1>{env}</h1>{table.html()}"
        "<p>Rows in blue: the smallest weight that one standard error does not tell from the best on "
        f"the selection episodes{table.of_tasks}. Every number is from the report episodes, which "
        f"are others.{of_success}</p>{lines}{table.differences_html()}{table.aggregates_html()}{costs}"
        f"{body}"
        f"<details><summary>Config, versions, data</summary><pre>{record}</pre></details></html>\n"
    )


def _trained_as(run: Run) -> str:
    return f"{run.config['algorithm']}, {run.config['critic']}"


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
    return Evaluated(rows, by_arm(sample.lines), name, _trained_as(sample.run), references)


def _choose(
    samples: Sequence[merged.Sample], runs: Sequence[Evaluated], tasks: Sequence[int]
) -> list[str]:
    """Marks what `tasks` select, if any; a line for each weight that some have not reported."""
    left = [*zip(samples, runs, strict=True)]
    while tasks and left:
        first = left[0][0].run
        domain = [one for one in left if not config_changes(first, one[0].run, but=("env",))]
        select_on_tasks([run for _, run in domain], tasks)
        left = [one for one in left if not any(one is other for other in domain)]
    return [
        f"{run.name}: {note}"
        for sample, run in zip(samples, runs, strict=True) if tasks or len(sample.runs) > 1
        for note in merged.unreported(run, len(sample.places))
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
    for line in table.gaps():
        again = ": `qgf evaluate` of all these weights together plays them" * (
            "are missing" in line
        )
        log(f"qgf: warning: {line}{again}")
