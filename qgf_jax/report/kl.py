"""Success against KL on the page of a run, of what `qgf analyze kl` has left in its folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qgf_jax.errors import UserError
from qgf_jax.evaluation.played import ALL_TASKS
from qgf_jax.report import page
from qgf_jax.report.charts import Axis, Chart, Point, Series, charts
from qgf_jax.report.page import Cell, Section
from qgf_jax.report.tables import task_name
from qgf_jax.runs.files import Lines
from qgf_jax.runs.run import Run

FILE = Path("analysis") / "kl.json"
_NUMBERS = ("kl", "mean", "low", "high", "weight", "best_of", "task")
_NOTE = (
    "KL: from the reference, in nats, of a chunk, as `qgf analyze kl` measured it. "
    "The chart has the report episodes."
)
_Point = Mapping[str, Any]


def points_of(run: Run) -> tuple[list[dict[str, Any]], str]:
    """The points of success against KL in a run folder, and what is wrong with them; "" if nothing."""
    path = run.workdir / FILE
    try:
        points = json.loads(path.read_bytes())["points"]
        sound = [point for point in points if _is_point(point)]
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], str(UserError.unreadable(FILE, error))
    except (ValueError, KeyError, TypeError, RecursionError):
        return [], f"{FILE} is no result of `qgf analyze kl` and is left out."
    if len(sound) < len(points):
        return [], f"{FILE} has points that are none and is left out."
    return sound, ""


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, dict)
        and all(Lines.is_number(point.get(name)) for name in _NUMBERS)
        and all(isinstance(point.get(name), str) for name in ("method", "split", "of"))
    )


def section(run: Run, href: Callable[[_Point], str]) -> Section:
    """A chart for each task and a table, if there are points; `href` says where one leads to."""
    points, why = points_of(run)
    title = "Success against KL"
    if not points:
        return Section(title, page.paragraphs([why] if why else []))
    head = ["task", "method", "best of", "weight", "split", "KL", points[0]["of"]]
    lines = [_line(point, href(point)) for point in points]
    figures = charts(_chart(some, href) for some in _drawn(points))
    return Section(title, figures + page.table(title, head, lines) + page.paragraphs([_NOTE]))


def _drawn(points: Sequence[_Point]) -> list[list[_Point]]:
    """The report points of each task; those over all tasks alone, if there are such."""
    tasks = sorted({point["task"] for point in points})
    tasks = [ALL_TASKS] if ALL_TASKS in tasks else tasks
    reported = [point for point in points if point["split"] == "report"]
    found = [[point for point in reported if point["task"] == task] for task in tasks]
    return [some for some in found if some]


def _line(point: _Point, href: str) -> list[Cell]:
    return [
        Cell(task_name(point["task"])),
        Cell(point["method"]),
        *(Cell(f"{point[name]:g}") for name in ("best_of", "weight")),
        Cell(point["split"]),
        Cell(f"{point['kl']:.3g}"),
        Cell(_bracket(point), href),
    ]


def _chart(points: Sequence[_Point], href: Callable[[_Point], str]) -> Chart:
    """Of the points of one task, a curve for each method."""
    by_method: dict[str, list[_Point]] = {}
    for point in points:
        by_method.setdefault(point["method"], []).append(point)
    series = [
        Series(method, [_mark(p, href(p)) for p in sorted(mine, key=lambda p: p["kl"])])
        for method, mine in by_method.items()
    ]
    y = Axis.measure(points[0]["of"], series)
    x = Axis.nats("KL from the reference [nats]", [point["kl"] for point in points])
    return Chart(f"task {task_name(points[0]['task'])}", series, x, y)


def _mark(point: _Point, href: str) -> Point:
    best_of, weight = point["best_of"], point["weight"]
    dose = f"best of {best_of}" if best_of > 1 else f"weight {weight:g}"
    title = f"{point['method']}, {dose}: {_bracket(point)}"
    return Point(point["kl"], point["mean"], point["low"], point["high"], title, href)


def _bracket(point: _Point) -> str:
    return f"{point['mean']:.3g} [{point['low']:.3g}, {point['high']:.3g}]"
