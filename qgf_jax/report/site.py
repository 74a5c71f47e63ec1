"""Several runs as a static site: one folder that opens from disk, a page of its own for each run."""

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from qgf_jax.errors import UserError, saving
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import ALL_TASKS, Key
from qgf_jax.evaluation.summary import Row, measure_of
from qgf_jax.report import kl, page, run_page
from qgf_jax.report.charts import Axis, Chart, Point, Series, charts
from qgf_jax.report.films import Films
from qgf_jax.report.page import Cell, Section
from qgf_jax.report.report import Reported, Together
from qgf_jax.report.tables import Panel, cell
from qgf_jax.report.tuned import TunedKey
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

    def episodes_played(self) -> int:
        """How many episodes it has played."""
        played = self.reported.own.played if self.reported else {}
        own = [tasks for key, tasks in played.items() if key.group.task != ALL_TASKS]
        return sum(len(episodes) for tasks in own for episodes in tasks.values())

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
    tuned: Sequence[TunedKey] = (),
) -> str:
    """Writes the site of runs or their records into the folder `out`. Its table as text.

    index.html is written last. For each run the site has what a report of that run alone has; with
    `select_on` its weights are those of the site. See `report.Together.of` for this and `tuned`, and for
    what it raises. A site there is replaced, but pages of runs that are not among `workdirs` stay, with
    no link to them. Raises `UserError` if `out` holds anything but a site, `SaveError` if it cannot be
    written.
    """
    out = Path(out)
    _check_free(out)
    runs = [Run.open(workdir) for workdir in workdirs]
    together = Together.of(runs, baseline, select_on, tuned)
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
    together.write(out / "table.md", out / "table.csv", out / "summary.json")
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
        return place.episodes(i)


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
        Section("Sweeps", _sweeps(together.played, homes)),
        Section("Learning curves", _curves(places)),
        Section("Runs", _runs(places)),
        Section("Differences of configs", _configs(places)),
    ]


def _by_task(rows: Sequence[Row], href: Callable[[Row, str], str]) -> str:
    """A line for each arm and a column for each task, where there are several."""
    panels = list(dict.fromkeys(map(Panel.of, rows)))
    if len(panels) < 2:
        return ""
    measures = {p: measure_of(row for row in rows if Panel.of(row) == p) for p in panels}
    found: dict[tuple[str, str], dict[Panel, Cell]] = {}
    for row in rows:
        measure = measures[Panel.of(row)]
        arm = row["trained_as"], Arm.of(row).sampler.label
        written = Cell(cell(row, measure), href(row, measure))
        found.setdefault(arm, {})[Panel.of(row)] = written
    lines = [
        [*map(Cell, arm), *(of.get(panel, Cell("-")) for panel in panels)]
        for arm, of in found.items()
    ]
    note = "Success, or the return where nobody has any, with the 95 % interval."
    head = ["trained as", "method", *(panel.title for panel in panels)]
    return page.table("By task", head, lines) + page.paragraphs([note])


class _Arm(NamedTuple):
    """What was reported of a method; where several runs were trained, of one of them."""

    label: str
    rows: Sequence[tuple[str, Row]]
    """By weight, each with what tables of several runs call its run."""

    @classmethod
    def all(cls, reported: Sequence[tuple[str, Row]]) -> list["_Arm"]:
        several = len({name for name, _ in reported}) > 1
        found: dict[str, list[tuple[str, Row]]] = {}
        for name, row in reported:
            label = Arm.of(row).sampler.label + f" ({name})" * several
            found.setdefault(label, []).append((name, row))
        return [
            cls(label, sorted(rows, key=lambda one: one[1]["weight"]))
            for label, rows in found.items()
        ]

    @property
    def weights(self) -> set[float]:
        return {row["weight"] for _, row in self.rows}

    @property
    def is_level(self) -> bool:
        """Whether it is drawn without a weight."""
        return len(self.weights) == 1 and self.rows[0][1]["method"] in _LEVELS

    def curve(self, weights: Sequence[float], measure: str, homes: "_Homes") -> Series:
        """Its points over the places of their weights."""
        points = []
        for name, row in self.rows:
            x, value = weights.index(row["weight"]), row[measure]
            title = f"{self.label}, weight {row['weight']:g}: {cell(row, measure)}"
            interval = (value["mean"], value["low"], value["high"])
            points.append(Point(x, *interval, title, homes.href(name, row)))
        return Series(self.label, points)

    def level(self, x: Axis, measure: str) -> Series:
        """A line across."""
        row = self.rows[0][1]
        ends = [Point(at, row[measure]["mean"]) for at in (x.low, x.high)]
        return Series(f"{self.label}, {cell(row, measure)}", ends, has_marks=False)


def _sweeps(played: Iterable[Evaluated], homes: _Homes) -> str:
    """A chart for each task of what was reported at several weights."""
    rows = [(one.name, row) for one in played for row in one.rows if row["split"] == "report"]
    panels: dict[Panel, list[tuple[str, Row]]] = {}
    for name, row in rows:
        panels.setdefault(Panel.of(row), []).append((name, row))
    shown = {panel: _Arm.all(panels[panel]) for panel in Panel.drawn(row for _, row in rows)}
    return charts(
        _sweep(panel, arms, homes) for panel, arms in shown.items()
        if any(len(arm.weights) > 1 for arm in arms)
    )  # fmt: skip


def _sweep(panel: Panel, arms: Sequence[_Arm], homes: _Homes) -> Chart:
    """A curve for each arm that was played at several weights, then lines across."""
    swept = [arm for arm in arms if len(arm.weights) > 1]
    weights = sorted(set().union(*(arm.weights for arm in swept)))
    measure = measure_of(row for arm in arms for _, row in arm.rows)
    x = Axis.places("guidance weight", weights)
    series = [arm.curve(weights, measure, homes) for arm in swept]
    series += [arm.level(x, measure) for arm in arms if arm.is_level]
    return Chart(panel.title, series, x, Axis.measure(measure, series))


def _curves(places: Sequence[_Place]) -> str:
    """A chart for each loss, a curve for each run that has it."""
    found: dict[str, dict[str, list[Point]]] = {}
    for place in places:
        for line in place.reported.metrics.records if place.reported else ():
            for name, value in line.items():
                is_loss = name.endswith("/loss") and not name.startswith("validation/")
                if is_loss and math.isfinite(value):
                    curves = found.setdefault(name, {})
                    points = curves.setdefault(f"{place.name}: {place.folder}", [])
                    points.append(Point(line["step"], value))
    return charts(_loss(name, curves) for name, curves in found.items())


def _loss(name: str, curves: Mapping[str, Sequence[Point]]) -> Chart:
    """On a logarithmic axis if the loss is positive and wide."""
    heights = [point.y for points in curves.values() for point in points]
    wide = min(heights) > 0 and max(heights) >= 10 * min(heights)
    drawn = {run: _thinned(points) for run, points in curves.items()}
    series = [Series(run, some, has_marks=len(some) < 2) for run, some in drawn.items()]
    steps, losses = zip(*((p.x, p.y) for some in drawn.values() for p in some), strict=True)
    y = (Axis.decades if wide else Axis.of)("loss in training", losses)
    x = Axis.of("step", [0.0, *steps])
    return Chart(name, series, x, y)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most about `_MOST_POINTS`, the last one among them."""
    every = -(-len(points) // _MOST_POINTS)
    return sorted({*points[::every], points[-1]})


def _runs(places: Sequence[_Place]) -> str:
    head = ["run", "env", "algorithm", "critic", "seeds", "steps", "episodes", "data", "commit"]
    head += ["config", "KL", "films"]
    return page.table("Runs", head, [*map(_run_line, places)])


def _run_line(place: _Place) -> list[Cell]:
    """What a run is, with links to its page if it has one."""
    run, at = place.run, place.home
    settings = run.settings()
    facts = [str(run.config[name]) for name in ("env", "algorithm", "critic", "seeds")]
    facts.append(str(settings.get("train.steps", "-")))
    origin = [str(run.dataset.get("file") or "-"), str(settings.get("git_commit") or "-")[:12]]
    has_kl, films = at and kl.points_of(run)[0], at and len(Films.of(run).paths)
    return [
        Cell(place.folder, at),
        *map(Cell, facts),
        Cell(str(place.episodes_played()), at and f"{place.folder}/{run_page.EPISODES}"),
        *map(Cell, origin),
        Cell("config", at and f"{at}#config"),
        Cell("KL", f"{at}#success-against-kl") if has_kl else Cell("-"),
        Cell(str(films), f"{at}#films") if films else Cell("-"),
    ]


def _short(value: str) -> Cell:
    """JSON of a setting; sums and long lists are cut, and a run's page has them whole."""
    if re.fullmatch(r'"[0-9a-f]{40,64}(-dirty)?"', value):
        value = value[1:13]
    return Cell(value if len(value) <= 60 else f"{value[:57]}…")


def _configs(places: Sequence[_Place]) -> str:
    """The settings in which the runs differ, a column for each run."""
    if len(places) < 2:
        return ""
    settings = [
        {name: json.dumps(value) for name, value in place.run.settings().items()}
        for place in places
    ]
    lines = []
    for name in dict.fromkeys(itertools.chain.from_iterable(settings)):
        values = [one.get(name, "-") for one in settings]
        if len(set(values)) > 1:
            lines.append([Cell(name), *map(_short, values)])
    if not lines:
        return page.paragraphs(["None: all have the same config, data, versions and commit."])
    head = ["setting", *(place.folder for place in places)]
    return page.table("Differences of configs", head, lines)
