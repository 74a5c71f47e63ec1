"""The rows of a report as Markdown, CSV and words."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from qgf_jax.evaluation import statistics
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.summary import ALL_TASKS, Row, gaps

_SELECTED = (
    "← the smallest weight that one standard error does not tell from the best on the selection "
    "episodes, which are others."
)


def markdown(rows: Sequence[Row]) -> str:
    """The report rows as a Markdown table, the selected weight of each method marked.

    Rows of several runs, with `trained_as`, have a column for it.
    """
    shown = [row for row in rows if row["split"] == "report"]
    head = ["env", "task", "method", "weight", "success [95 %]", "return [95 %]", "length", "n"]
    body = [_line(row) for row in shown]
    if any("trained_as" in row for row in rows):
        head.insert(2, "trained as")
        for line, row in zip(body, shown, strict=True):
            line.insert(2, row["trained_as"])
    return "\n\n".join([_grid([head, *body]), _SELECTED, *notes(rows)])


def _grid(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of a head and further lines, its columns aligned."""
    head, *body = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]

    def drawn(line: Sequence[str]) -> str:
        return f"| {' | '.join(map(str.ljust, line, widths))} |"

    return "\n".join(map(drawn, [head, ["-" * w for w in widths], *body]))


def _line(row: Row) -> list[str]:
    written = cells(row)
    return [
        row["env"],
        written["task"],
        written["method"] + (" **←**" if row["selected"] else ""),
        written["weight"],
        _interval(row["success"], 2),
        _interval(row["return"], 1),
        f"{row['length']['mean']:.0f}",
        written["episodes"],
    ]


def _interval(value: dict[str, float], digits: int) -> str:
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def cells(row: Row) -> dict[str, str]:
    """How a row's task, method, weight and number of episodes are written.

    A method has its options, and its N where that is not 1; a number of episodes has how many seeds
    played them, and how many of them a simulator could not play.
    """
    seeds = f" / {row['seeds']} seeds" if row["seeds"] > 1 else ""
    failed = f" ({row['failed']} not played to the end)" if row.get("failed") else ""
    return {
        "task": str(row["task"]) if row["task"] != ALL_TASKS else "all",
        "method": Arm.of(row).sampler.label,
        "weight": f"{row['weight']:g}",
        "episodes": f"{row['episodes']}{seeds}{failed}",
    }


def notes(rows: Sequence[Row]) -> list[str]:
    """What the brackets of the report rows are, a line for each kind; then what rows lack."""
    kinds = dict.fromkeys(row["interval"] for row in rows if row["split"] == "report")
    return [*(f"[95 %], {kind}: {statistics.KINDS[kind]}." for kind in kinds), *gaps(rows)]


def as_csv(rows: Sequence[Row]) -> str:
    """All rows, with success_mean, success_low and so on as columns."""
    flat = [_flat(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, flat[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for key, value in row.items():
        if key == "options":
            line[key] = ":".join(f"{k}={v}" for k, v in value.items())
        elif isinstance(value, dict):
            line |= {f"{key}_{k}": v for k, v in value.items()}
        else:
            line[key] = value
    return line
