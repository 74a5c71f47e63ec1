"""Several runs as a static site: one folder that opens from disk, a page of its own for each run."""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.errors import UserError, saving
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import ALL_TASKS, Key
from qgf_jax.evaluation.summary import Row
from qgf_jax.report import page, run_page
from qgf_jax.report.charts import Axis, Point, Series, charts
from qgf_jax.report.page import Cell, Section
from qgf_jax.report.report import Reported, Together
from qgf_jax.report.tables import cell
from qgf_jax.runs.files import write_atomically
from qgf_jax.runs.run import Run

_ELSEWHERE = "choose another --out"
_MOST_POINTS = 150
"""Of a curve of training; the rest is in the run's own metrics.jsonl."""
_LEVELS = ("reference", "best_of")
"""Methods without a weight that a sweep is seen against."""
_SAID = (
    "Each number is of a run's report episodes, at the weight that was selected on other episodes{}, "
    "and leads to them; what a run was trained as leads to its own page, with all weights, config "
    "and commands. Where seeds of several folders are one row, the column of runs leads to each."
)


class _Place(NamedTuple):
    """A run and where its pages are."""

    run: Run
    name: str
    """How tables of several runs call it; runs of one sample of seeds have the same."""
    folder: str
    reported: Reported | None
    """`None` for a run without episodes, which has no pages."""

    @property
    def rows(self) -> Sequence[Row]:
        return self.reported.table.rows if self.reported else ()

    @property
    def home(self) -> str:
        return f"{self.folder}/index.html" if self.reported else ""

    def episodes(self, place: int) -> str:
        """Where the episodes of a row are."""
        return f"{self.folder}/{run_page.EPISODES}#row={place}"


_Home = tuple[_Place, int]
"""A run and the place of a row among its own."""


def write(
    workdirs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    baseline: str | None = None,
    select_on: Sequence[int] = (),
) -> str:
    """Writes the site of runs or their records into the folder `out`. Its table as text.

    index.html is written last. For each run the site has what a report of that run alone has; with
    `select_on` its weights are those of the site, see `report.Together.of`, which also says what it
    raises. A site there is replaced, but pages of runs that are not among `workdirs` stay, with no link
    to them. Raises `UserError` if `out` holds anything but a site, `SaveError` if it cannot be written.
    """
    out = Path(out)
    _check_free(out)
    runs = [Run.open(workdir) for workdir in workdirs]
    together = Together.of(runs, baseline, select_on)
    played = [together.played[i] for i in together.places]
    places = [
        _Place(run, one.name, folder, _reported(run, baseline, select_on, one))
        for run, one, folder in zip(runs, played, _folders(runs), strict=True)
    ]
    with saving(out, _ELSEWHERE):
        out.mkdir(parents=True, exist_ok=True)
    for place in places:
        if place.reported:
            ways = [Cell("All runs", "../index.html")]
            place.reported.write(out / place.folder, _ELSEWHERE, ways)
    together.write(out / "table.md", out / "table.csv")
    content = page.page("Runs", _sections(places, together))
    write_atomically(out / "index.html", content, _ELSEWHERE)
    return together.text


def _check_free(out: Path) -> None:
    """Raises `UserError` if `out` is a folder with anything but a site in it."""
    try:
        if not out.is_dir() or not any(out.iterdir()):
            return
        index = (out / "index.html").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        index = ""
    except OSError as error:
        raise UserError.unreadable(out, error) from None
    if page.GENERATOR not in index:
        raise UserError(f"{out} holds files that are no site of runs: {_ELSEWHERE}")


def _reported(
    run: Run, baseline: str | None, select_on: Sequence[int], together: Evaluated
) -> Reported | None:
    if not EpisodeLog.read(run).records:
        return None
    return Reported.of(run, baseline, select_on, together)


def _folders(runs: Iterable[Run]) -> list[str]:
    """A folder's name for each run, which any file system and address takes and no other run has."""
    names: list[str] = []
    for run in runs:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", run.workdir.resolve().name).strip("-") or "run"
        name, n = plain[:60], 1
        while name.lower() in (other.lower() for other in names):
            n += 1
            name = f"{plain[:60]}-{n}"
        names.append(name)
    return names


class _Homes:
    """The runs that rows of the table of all are of, and which of their own rows these are."""

    def __init__(self, places: Sequence[_Place]):
        self._found: dict[tuple[str, Key], list[_Home]] = {}
        for place in places:
            for i, row in enumerate(place.rows):
                self._found.setdefault((place.name, Key.of(row)), []).append((place, i))

    def of(self, name: str, row: Row) -> list[_Home]:
        """Of a row of what is called `name`: one, or one for each folder of a sample of seeds."""
        return self._found.get((name, Key.of(row)), [])

    def href(self, name: str, row: Row, column: str = "success") -> str:
        """Where a cell leads: a number to its episodes, what a run was trained as to its page.

        Of a sample of several folders nothing leads anywhere; they have a column of their own.
        """
        if len(found := self.of(name, row)) != 1:
            return ""
        ((place, i),) = found
        if column == "trained as":
            return place.home
        return place.episodes(i) if page.leads(column) else ""


def _folders_of(homes: Sequence[_Home]) -> Cell:
    """Each folder, which leads to the episodes that it has of a row."""
    first, *more = [Cell(place.folder, place.episodes(i)) for place, i in homes] or [Cell("-")]
    return first._replace(also=more)


def _sections(places: Sequence[_Place], together: Together) -> list[Section]:
    homes = _Homes(places)

    def href(row: Row, column: str) -> str:
        return homes.href(row["trained_as"], row, column)

    sections = []
    for part in together.table.parts():
        mine = [homes.of(row["trained_as"], row) for row in part.rows]
        # Where rows are each of one run, what it was trained as leads there already.
        more = {"runs": [*map(_folders_of, mine)]} if any(len(one) > 1 for one in mine) else {}
        sections.append(Section(part.title, page.part(part, href, more)))
    first = sections[0]
    said = page.paragraphs([_SAID.format(together.table.of_tasks), *together.notes])
    return [
        first._replace(body=said + first.body),
        *sections[1:],
        Section("By task", _by_task(together.table.reported, href)),
        Section("Sweeps", _sweeps(together, homes)),
        Section("Learning curves", _curves(places)),
        Section("Runs", _runs(places)),
        Section("Differences of configs", _configs(places)),
    ]


def _by_task(rows: Sequence[Row], href: Callable[[Row, str], str]) -> str:
    """A line for each arm and a column for each task, where there are several."""
    tasks = list(dict.fromkeys((row["env"], row["task"]) for row in rows))
    if len(tasks) < 2:
        return ""
    found: dict[tuple[str, str], dict[tuple[str, int], Cell]] = {}
    for row in rows:
        measure = "success" if row["success"] else "return"
        arm = row["trained_as"], Arm.of(row).sampler.label
        written = Cell(cell(row, measure), href(row, measure))
        found.setdefault(arm, {})[row["env"], row["task"]] = written
    names = [f"{env}, task {'all' if task == ALL_TASKS else task}" for env, task in tasks]
    lines = [
        [*map(Cell, arm), *(of.get(task, Cell("-")) for task in tasks)] for arm, of in found.items()
    ]
    note = "Success, or the return where there is none, with the 95 % interval."
    head = ["trained as", "method", *names]
    return page.table("By task", head, lines) + page.paragraphs([note])


def _sweeps(together: Together, homes: _Homes) -> str:
    """A chart for each task of what was reported at several weights."""
    panels: dict[tuple[str, int], list[tuple[str, Row]]] = {}
    for one in together.played:
        for row in one.rows:
            if row["split"] == "report":
                panels.setdefault((row["env"], row["task"]), []).append((one.name, row))
    pooled = {env for env, task in panels if task == ALL_TASKS}
    shown = [key for key in sorted(panels) if key[1] == ALL_TASKS or key[0] not in pooled]
    figures = "".join(_sweep(*key, panels[key], homes) for key in shown)
    return figures and f'<div class="charts">{figures}</div>'


def _sweep(env: str, task: int, reported: Sequence[tuple[str, Row]], homes: _Homes) -> str:
    measure = "success" if all(row["success"] for _, row in reported) else "return"
    several = len({name for name, _ in reported}) > 1
    arms: dict[str, list[tuple[str, Row]]] = {}
    for name, row in reported:
        label = Arm.of(row).sampler.label + (f" ({name})" if several else "")
        arms.setdefault(label, []).append((name, row))
    swept = {label: mine for label, mine in arms.items() if len({r["weight"] for _, r in mine}) > 1}
    if not swept:
        return ""
    weights = sorted({row["weight"] for mine in swept.values() for _, row in mine})
    x = Axis.places("guidance weight", [f"{weight:g}" for weight in weights])
    series = [
        Series(label, [
            _point(weights.index(row["weight"]), row, measure, label, homes.href(name, row))
            for name, row in sorted(mine, key=lambda one: one[1]["weight"])
        ])
        for label, mine in swept.items()
    ]  # fmt: skip
    series += [
        _level(label, mine[0][1], measure, x)
        for label, mine in arms.items() if label not in swept and mine[0][1]["method"] in _LEVELS
    ]  # fmt: skip
    heights = [p for one in series for p in one.points]
    known = [y for p in heights for y in (p.y, p.low, p.high) if y is not None]
    y = Axis.share(measure) if measure == "success" else Axis.of(measure, known)
    title = f"{env}, task {'all' if task == ALL_TASKS else task}"
    return charts(title, series, x, y)


def _level(label: str, row: Row, measure: str, x: Axis) -> Series:
    """A line across, of a method without a weight."""
    mean = row[measure]["mean"]
    ends = [Point(x.low, mean), Point(x.high, mean)]
    return Series(f"{label}, {cell(row, measure)}", ends, has_marks=False)


def _point(x: float, row: Row, measure: str, label: str, href: str) -> Point:
    value = row[measure]
    title = f"{label}, weight {row['weight']:g}: {cell(row, measure)}"
    return Point(x, value["mean"], value["low"], value["high"], title, href)


def _curves(places: Sequence[_Place]) -> str:
    """A chart for each loss, a curve for each run that has it."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for place in places:
        for line in place.reported.metrics.records if place.reported else ():
            for name, value in line.items():
                is_loss = name.endswith("/loss") and not name.startswith("validation/")
                if is_loss and math.isfinite(value):
                    curves = found.setdefault(name, {})
                    curves.setdefault(f"{place.name}: {place.folder}", []).append(
                        (line["step"], value)
                    )
    figures = "".join(_loss(name, curves) for name, curves in found.items())
    return figures and f'<div class="charts">{figures}</div>'


def _loss(name: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """On a logarithmic axis if the loss is positive and wide."""
    values = [value for points in curves.values() for _, value in points]
    wide = min(values) > 0 and max(values) >= 10 * min(values)
    series = []
    for run, points in curves.items():
        every = -(-len(points) // _MOST_POINTS)
        kept = sorted({*points[::every], points[-1]})
        drawn = [Point(step, math.log10(y) if wide else y) for step, y in kept]
        series.append(Series(run, drawn, has_marks=len(drawn) < 2))
    heights = [point.y for one in series for point in one.points]
    y = (Axis.decades if wide else Axis.of)("loss in training", heights)
    x = Axis.of("step", [0.0, *(point.x for one in series for point in one.points)])
    return charts(name, series, x, y)


def _runs(places: Sequence[_Place]) -> str:
    head = ["run", "env", "algorithm", "critic", "seeds", "steps", "episodes", "data", "commit"]
    head += ["config", "KL", "films"]
    lines = []
    for place in places:
        config, settings = place.run.config, place.run.settings()
        count = sum(map(len, _lines_of(place)))
        has_kl = bool(run_page.divergences(place.run)[0])
        films = len(run_page.films_of(place.run))
        at = place.home
        lines.append(
            [
                Cell(place.folder, at),
                *(Cell(str(config[name])) for name in ("env", "algorithm", "critic", "seeds")),
                Cell(str(settings.get("train.steps", "-"))),
                Cell(str(count), at and f"{place.folder}/{run_page.EPISODES}"),
                Cell(str(place.run.dataset.get("file") or "-")),
                Cell(str(settings.get("git_commit") or "-")[:12]),
                Cell("config", at and f"{at}#config"),
                Cell("KL", f"{at}#success-against-kl") if at and has_kl else Cell("-"),
                Cell(str(films), f"{at}#films") if at and films else Cell("-"),
            ]
        )
    return page.table("Runs", head, lines)


def _lines_of(place: _Place) -> Iterable[Any]:
    played = place.reported.own.played if place.reported else {}
    return (
        cell for key, tasks in played.items() if key.group.task != ALL_TASKS
        for cell in tasks.values()
    )  # fmt: skip


def _short(value: str) -> Cell:
    """JSON of a setting; sums and long lists are cut, and a run's page has them whole."""
    if re.fullmatch(r'"[0-9a-f]{40,64}(-dirty)?"', value):
        value = value[1:13]
    return Cell(value if len(value) <= 60 else f"{value[:57]}…")


def _configs(places: Sequence[_Place]) -> str:
    """The settings in which the runs differ, a column for each run."""
    if len(places) < 2:
        return ""
    settings = [place.run.settings() for place in places]
    names = list(dict.fromkeys(name for one in settings for name in one))
    lines = []
    for name in names:
        values = [json.dumps(one[name]) if name in one else "-" for one in settings]
        if len(set(values)) > 1:
            lines.append([Cell(name), *map(_short, values)])
    if not lines:
        return page.paragraphs(["None: all have the same config, data, versions and commit."])
    head = ["setting", *(place.folder for place in places)]
    return page.table("Differences of configs", head, lines)
