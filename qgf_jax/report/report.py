"""Tables, plots and one page from a run's lines, and from nothing else."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qgf_jax.errors import UserError, log, saving
from qgf_jax.evaluation import episodes, summary
from qgf_jax.report import tables
from qgf_jax.runs import run as runs
from qgf_jax.runs.files import Lines, write_atomically
from qgf_jax.runs.metrics import read_metrics

_ELSEWHERE = "give --out=NAME, which writes the table alone"


def write(workdir: str | os.PathLike) -> str:
    """Writes `report/`: summary.json, table.md, table.csv, plots, index.html. The table as text.

    Only the newest evaluated checkpoint counts, and only lines that are episodes; the report says what
    it leaves out. Raises `UserError` if nothing was evaluated, `SaveError` if it cannot be written.
    """
    run = runs.open_run(workdir)
    lines, metrics = episodes.read(run), read_metrics(run.metrics)
    if not lines.records:
        why = f" ({note})" if (note := lines.note()) else ""
        raise UserError(f"{run.episodes} has no episodes{why}: run `qgf evaluate` first")
    lines.warn()
    rows = summary.summarize(lines.records)
    metrics.warn()
    _warn(rows)
    notes = [*_notes(lines), *filter(None, [metrics.note()])]
    from qgf_jax.report import html as page
    from qgf_jax.report import plots  # Matplotlib, which an error should not wait for

    folder = run.workdir / "report"
    with saving(folder, _ELSEWHERE):
        folder.mkdir(exist_ok=True)
        figures = plots.draw(run, rows, folder, summary.unique(lines.records), metrics.records)
    table = "\n\n".join([tables.markdown(rows), *notes])
    record = {
        "rows": rows,
        "optimistic": summary.optimistic(rows),
        "left_out": [
            {"file": found.path.name, **one._asdict()}
            for found in (lines, metrics)
            for one in found.left_out
        ],
        "earlier_checkpoints": _earlier(lines),
        "versions": runs.versions(run.config["env"]),
    }
    for name, text in {
        "summary.json": json.dumps(record, indent=1) + "\n",
        "table.md": table + "\n",
        "table.csv": tables.as_csv(rows),
        "index.html": page.render(run, rows, figures, notes),
    }.items():
        write_atomically(folder / name, text, _ELSEWHERE)
    return table


def compare(workdirs: Sequence[str | os.PathLike], out: str | os.PathLike) -> str:
    """One table of several runs, the selected report rows alone: OUT.md and OUT.csv, and its text.

    What a run was trained as is a column, since one method may act with several trainings: algorithm and
    critic, and its folder where these two do not tell the runs apart.
    """
    opened = [runs.open_run(workdir) for workdir in workdirs]
    names = [f"{run.config['algorithm']}, {run.config['critic']}" for run in opened]
    names = [f"{n} ({r.workdir.name})" if names.count(n) > 1 else n for n, r in zip(names, opened)]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for name, run in zip(names, opened, strict=True):
        lines = episodes.read(run)
        notes += [f"{name}: {note}" for note in _notes(lines)]
        lines.warn()
        rows += [{"trained_as": name, **row} for row in _selected_reports(lines)]
    if not rows:
        raise UserError(
            f"{', '.join(map(str, workdirs))}: nothing selected and reported: run `qgf evaluate`"
        )
    rows.sort(key=lambda row: (row["env"], row["task"], -row["success"]["mean"]))
    table = "\n\n".join([tables.markdown(rows), *notes])
    write_atomically(Path(f"{out}.md"), table + "\n")
    write_atomically(Path(f"{out}.csv"), tables.as_csv(rows))
    return table


def _selected_reports(lines: Lines) -> list[dict[str, Any]]:
    """The report rows of selected weights."""
    rows = summary.summarize(lines.records)
    _warn(rows)
    return [row for row in rows if row["selected"] and row["split"] == "report"]


def _notes(lines: Lines) -> list[str]:
    """What a report says of lines that are not in it."""
    earlier = _earlier(lines)
    older = f"{lines.path.name}: {earlier} lines of earlier checkpoints left out" if earlier else ""
    return [note for note in (lines.note(), older) if note]


def _earlier(lines: Lines) -> int:
    """How many episodes are of checkpoints before the newest one of their environment."""
    newest: dict[str, int] = {}
    for line in lines.records:
        newest[line["env"]] = max(line["step"], newest.get(line["env"], 0))
    return sum(line["step"] < newest[line["env"]] for line in lines.records)


def _warn(rows: Sequence[dict[str, Any]]) -> None:
    for line in summary.gaps(rows):
        again = ": `qgf evaluate` of all these weights together plays them" * (
            "are missing" in line
        )
        log(f"qgf: warning: {line}{again}")
