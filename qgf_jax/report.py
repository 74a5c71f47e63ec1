"""Tables, plots and one page from a run's lines, and from nothing else."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qgf_jax import run as runs
from qgf_jax import tables
from qgf_jax.checkpoint import write_atomically
from qgf_jax.errors import UserError, say
from qgf_jax.metrics import read_lines


def write(workdir: str | os.PathLike) -> str:
    """Writes `report/`: summary.json, table.md, table.csv, plots, index.html. The table as text.

    Only the newest evaluated checkpoint counts. Raises `UserError` if nothing was evaluated.
    """
    run = runs.open_run(workdir)
    rows = tables.summarize(read_lines(run.episodes))
    if not rows:
        raise UserError(f"{run.episodes} has no episodes: run `qgf evaluate` first")
    from qgf_jax import page, plots  # Matplotlib, which an error should not wait for

    folder = run.workdir / "report"
    folder.mkdir(exist_ok=True)
    table = tables.markdown(rows)
    summary = {"rows": rows, "optimistic": tables.optimistic(rows), "versions": runs.versions()}
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_atomically(folder / "table.md", table + "\n")
    write_atomically(folder / "table.csv", tables.as_csv(rows))
    _warn(rows)
    figures = plots.draw(run, rows, folder)
    write_atomically(folder / "index.html", page.render(run, rows, figures))
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
    for name, run in zip(names, opened, strict=True):
        every = tables.summarize(read_lines(run.episodes))
        _warn(every)
        for row in every:
            if row["selected"] and row["split"] == "report":
                rows.append({"trained_as": name, **row})
    if not rows:
        raise UserError(
            f"{', '.join(map(str, workdirs))}: nothing selected and reported: run `qgf evaluate`"
        )
    rows.sort(key=lambda row: (row["env"], row["task"], -row["success"]["mean"]))
    table = tables.markdown(rows)
    write_atomically(Path(f"{out}.md"), table + "\n")
    write_atomically(Path(f"{out}.csv"), tables.as_csv(rows))
    return table


def _warn(rows: Sequence[dict[str, Any]]) -> None:
    for line in tables.gaps(rows):
        say(f"qgf: warning: {line}: the same `qgf evaluate` again plays what is missing")
