"""The report as one self-contained HTML page."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qgf_jax.report.tables import cells, notes
from qgf_jax.runs.run import Run

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.3em .8em;border-bottom:1px solid #ddd}
th{text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}
tr.selected{background:#eaf3fb;font-weight:600}figure{margin:2em 0}img,video{max-width:100%}
figcaption{color:#555}pre{background:#f6f6f6;padding:1em;overflow:auto;font-size:12px}
"""


def render(
    run: Run,
    rows: Sequence[dict[str, Any]],
    figures: Sequence[tuple[str, Path]],
    more: Sequence[str] = (),
) -> str:
    """The page; pictures and films are inside it. `more` says what the tables leave out."""
    env = html.escape(run.config["env"])
    films = sorted(p for p in (run.workdir / "report" / "videos").glob("*.gif") if p.is_file())
    pictures = [(caption, path, "png") for caption, path in figures]
    pictures += [(path.stem.replace("_", " "), path, "gif") for path in films]
    body = "".join(
        f'<figure><img src="data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"'
        f' alt="{html.escape(caption)}"><figcaption>{html.escape(caption)}</figcaption></figure>'
        for caption, path, kind in pictures
    )
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in [*notes(rows), *more])
    record = html.escape((run.workdir / "config.json").read_text())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{env}</title>'
        f"<style>{_STYLE}</style><h1>{env}</h1>{_tables(rows)}"
        "<p>Rows in blue: the smallest weight that one standard error does not tell from the best on "
        "the selection episodes. Every number is from the report episodes, which are others. Of "
        "successes, intervals are never narrower than the Wilson interval of the distinct episodes."
        f"</p>{lines}{body}"
        f"<details><summary>Config, versions, data</summary><pre>{record}</pre></details></html>\n"
    )


def _tables(rows: Sequence[dict[str, Any]]) -> str:
    """A table for each environment: simulators that differ never share one."""
    names = list(dict.fromkeys(row["env"] for row in rows if row["split"] == "report"))
    heads = [f"<h2>{html.escape(name)}</h2>" if len(names) > 1 else "" for name in names]
    each = ([row for row in rows if row["env"] == name] for name in names)
    return "".join(head + _table(mine) for head, mine in zip(heads, each, strict=True))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = (
        "<tr><th>task<th>method<th>weight<th>success<th>return<th>length<th>episodes<th>seeds</tr>"
    )
    lines = []
    for row in rows:
        if row["split"] != "report":
            continue
        written = cells(row)
        numbers = [
            written["weight"],
            *(
                _cell(row[k], digits)
                for k, digits in (("success", 2), ("return", 1), ("length", 0))
            ),
            written["episodes"],
            str(row["seeds"]),
        ]
        kind = ' class="selected"' if row["selected"] else ""
        name = html.escape(json.dumps(written["method"])[1:-1])
        lines.append(
            f"<tr{kind}><td>{written['task']}<td>{name}"
            + "".join(f'<td class="n">{cell}' for cell in numbers)
            + "</tr>"
        )
    return f"<table>{head}{''.join(lines)}</table>"


def _cell(value: dict[str, float], digits: int) -> str:
    low, high = f"{value['low']:.{digits}f}", f"{value['high']:.{digits}f}"
    return f"{value['mean']:.{digits}f} <small>[{low}, {high}]</small>"
