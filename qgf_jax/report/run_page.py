"""The pages of one run: index.html with tables, pictures and config, episodes.html with the lines."""

import json
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from qgf_jax.envs.families import ON_DEVICE
from qgf_jax.errors import UserError
from qgf_jax.evaluation import recorded
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import ALL_TASKS, Key, complete
from qgf_jax.evaluation.summary import Row
from qgf_jax.report import cost, page
from qgf_jax.report.charts import Axis, Point, Series, charts, linear_then_log
from qgf_jax.report.page import Cell, Section
from qgf_jax.report.tables import Part, Table, cell
from qgf_jax.runs.files import Lines
from qgf_jax.runs.run import Run

EPISODES = "episodes.html"
KL = Path("analysis") / "kl.json"
"""What `qgf analyze kl` writes into a run folder."""

_SELECTED = (
    "Marked rows: the smallest weight that one standard error does not tell from the best on the "
    "selection episodes{}. Every number is from the report episodes, which are others, and leads to "
    "them."
)
_WILSON = (
    "Of successes, intervals are never narrower than the Wilson interval of the distinct episodes."
)
_FILM = re.compile(r"task(\d+)_(.+)_episode(\d+)")
_KL_NUMBERS = ("kl", "mean", "low", "high", "weight", "best_of", "task")


class Pages(NamedTuple):
    """What the pages of a run are made of."""

    run: Run
    own: Evaluated
    table: Table
    figures: Sequence[tuple[str, Path]]
    """(Caption, PNG)."""
    notes: Sequence[str]
    """What the tables leave out."""
    films: Sequence[Path]
    """Beside the pages, in `videos`."""
    costs: Sequence[Mapping[str, Any]]
    """As `selection_cost.curves` has them."""

    def results(self, ways: Sequence[Cell] = ()) -> str:
        """The page of tables and pictures; `ways` lead elsewhere."""
        pictures = "".join(page.picture(path, caption) for caption, path in self.figures)
        sections = [
            *self._tables(),
            cost.section(self.costs),
            Section("Pictures", pictures),
            Section("Success against KL", self._kl()),
            Section("Films", _films(self.films)),
            Section("Commands", _commands(self.run)),
            Section("Config", _config(self.run)),
        ]
        ways = [*ways, Cell("Episodes", EPISODES)]
        return page.page(self.run.config["env"], sections, ways)

    def episodes(self) -> str:
        """The page of all lines that count, of which a link shows those of a row."""
        head = ["env", "task", "method", "weight", "split", "seed", "episode", "success", "return"]
        head += ["length", "failed", "counts"]
        names = [self._name(row) for row in self.table.rows]
        choices = "".join(
            f'<option value="{i}">{page.text(f"{i}: {name}")}</option>'
            for i, name in enumerate(names)
        )
        empty = page.table("Episodes", head, []).replace('class="grid"', 'class="grid episodes"')
        body = (
            "<noscript><p>This table needs JavaScript. The same lines are in the run folder: "
            f"{page.text(self._file)}.</p></noscript>"
            '<p class="controls"><label>Row <select id="rows"><option value="">all</option>'
            f'{choices}</select></label></p><div id="about"></div>{empty}'
            "<p>A row is the mean of the lines that count: those that all of its seeds have played. "
            "Rows are numbered as in summary.json.</p>"
        )
        sections = [Section("Lines", body)]
        title = f"Episodes: {self.run.config['env']}"
        return page.page(title, sections, [Cell("Results", "index.html")], self._lines())

    @property
    def _file(self) -> str:
        return (self.run.record if self.run.record.exists() else self.run.episodes).name

    def href(self, row: Row, column: str) -> str:
        """Where a row's cell leads to: a number to its episodes, a difference to those of both arms."""
        if not page.leads(column):
            return ""
        places = [place for place, other in enumerate(self.table.rows) if other is row]
        if column == "difference":
            places += self._places(row["paired"]["baseline"], row)
        return _to(places)

    def _places(self, label: str, like: Row) -> list[int]:
        """The row of that arm in the environment and task of another."""
        return [
            place for place, row in enumerate(self.table.rows)
            if row["split"] == "report" and row["selected"] and Arm.of(row).label == label
            and (row["env"], row["task"]) == (like["env"], like["task"])
        ]  # fmt: skip

    def _tables(self) -> list[Section]:
        has_success = any(row["success"] for row in self.table.rows)
        said = [_SELECTED.format(self.table.of_tasks), *[_WILSON] * has_success, *self.notes]
        sections = []
        for one in self.table.parts():
            body = self._by_env(one) if one.rows else self._over_tasks(one)
            sections.append(Section(one.title, body + page.paragraphs(said)))
            said = []
        return sections

    def _by_env(self, one: Part) -> str:
        several = one.by_env()
        if len(several) == 1:
            return page.part(one, self.href)
        titled = (
            f"<h3>{page.text(env)}</h3>"
            + page.part(mine._replace(title=f"{one.title}, {env}"), self.href)
            for env, mine in several.items()
        )
        return "".join(titled) + page.paragraphs(one.notes)

    def _over_tasks(self, one: Part) -> str:
        """Numbers over all tasks, which lead to the episodes of the arm in each."""
        of = {name: [] for name in (record["method"] for record in self.table.aggregates)}
        for place, row in enumerate(self.table.rows):
            simulator = f" ({ON_DEVICE})" * row["env"].endswith(f" ({ON_DEVICE})")
            name = Arm.of(row).sampler.label + simulator
            if name in of and row["selected"] and row["split"] == "report" and row["task"]:
                of[name].append(place)
        method = one.head.index("method")
        leading = {one.head.index("IQM [95 %]"), one.head.index("difference [95 %]")}
        lines = [
            [
                Cell(words, _to(of[line[method]]) if i in leading else "")
                for i, words in enumerate(line)
            ]
            for line in one.lines
        ]
        return page.table(one.title, one.head, lines) + page.paragraphs(one.notes)

    def _name(self, row: Row) -> str:
        task = cell(row, "task")
        return f"{row['env']}, task {task}, {Arm.of(row).label}, {row['split']} episodes"

    def _lines(self) -> dict[str, Any]:
        """For the script: lines by group; for each row its groups, and the lines that do not count."""
        groups: dict[Key, int] = {}
        lines: list[list[Any]] = []
        places: dict[tuple[Key, int, int], int] = {}
        for key, tasks in self.own.played.items():
            if key.group.task != ALL_TASKS:
                groups[key] = len(groups)
                for (seed, episode), line in sorted(tasks[key.group.task].items()):
                    places[key, seed, episode] = len(lines)
                    numbers = [line.get("success"), line["return"], line["length"]]
                    lines.append([groups[key], seed, episode, *numbers, line.get("failed") or ""])
        return {
            "groups": [
                [key.group.env, key.group.task, key.group.sampler.label, key.weight, key.split]
                for key in groups
            ],
            "lines": lines,
            "rows": [self._row(row, groups, places) for row in self.table.rows],
        }

    def _row(
        self, row: Row, groups: Mapping[Key, int], places: Mapping[tuple[Key, int, int], int]
    ) -> dict[str, Any]:
        own = Key.of(row)
        tasks = self.own.played[own]
        shared, seeds = complete(tasks)
        keys = {task: own._replace(group=own.group._replace(task=task)) for task in tasks}
        out = [
            places[keys[task], seed, episode]
            for task, played in tasks.items() for seed, episode in sorted(played)
            if episode not in shared[task] or seed not in seeds
        ]  # fmt: skip
        shown = [f"{name} {cell(row, name)}" for name in ("success", "return") if row[name]]
        return {
            "name": self._name(row),
            "numbers": f"{', '.join(shown)}, from {row['episodes']} episodes that count.",
            "groups": [groups[key] for key in keys.values()],
            "out": out,
            "command": _command(self.run, row, {e for t in tasks.values() for _, e in t}, [*tasks]),
        }

    def _kl(self) -> str:
        """A chart for each task and a table, of what `qgf analyze kl` wrote, if it did."""
        points, why = divergences(self.run)
        if not points:
            return page.paragraphs([why] if why else [])
        tasks = sorted({point["task"] for point in points})
        drawn = [ALL_TASKS] if ALL_TASKS in tasks else tasks
        figures = "".join(self._kl_chart([p for p in points if p["task"] == t], t) for t in drawn)
        head = ["task", "method", "best of", "weight", "split", "KL", points[0]["of"]]
        lines = [
            [
                Cell("all" if point["task"] == ALL_TASKS else str(point["task"])),
                Cell(point["method"]),
                *(Cell(f"{point[name]:g}") for name in ("best_of", "weight")),
                Cell(point["split"]),
                Cell(f"{point['kl']:.3g}"),
                Cell(_bracket(point), self._of_point(point)),
            ]
            for point in points
        ]
        note = (
            "KL: from the reference, in nats, of a chunk, as `qgf analyze kl` measured it. "
            "The chart has the report episodes."
        )
        return (
            f'<div class="charts">{figures}</div>'
            + page.table("Success against KL", head, lines)
            + page.paragraphs([note])
        )

    def _kl_chart(self, points: Sequence[Mapping[str, Any]], task: int) -> str:
        reported = [point for point in points if point["split"] == "report"]
        if not reported:
            return ""
        series = []
        for method in dict.fromkeys(point["method"] for point in reported):
            mine = sorted((p for p in reported if p["method"] == method), key=lambda p: p["kl"])
            marks = [
                Point(
                    linear_then_log(p["kl"]), p["mean"], p["low"], p["high"],
                    f"{method}, {_dose(p)}: {_bracket(p)}", self._of_point(p),
                )
                for p in mine
            ]  # fmt: skip
            series.append(Series(method, marks))
        of = reported[0]["of"]
        heights = [p[name] for p in reported for name in ("low", "high")]
        y = Axis.share(of) if of == "success" else Axis.of(of, heights)
        x = Axis.nats("KL from the reference [nats]", [p["kl"] for p in reported])
        return charts(f"task {'all' if task == ALL_TASKS else task}", series, x, y)

    def _of_point(self, point: Mapping[str, Any]) -> str:
        names = ("task", "method", "best_of", "weight", "split")
        return _to(
            place for place, row in enumerate(self.table.rows)
            if not row["options"] and not row["env"].endswith(f" ({ON_DEVICE})")
            and all(row[name] == point[name] for name in names)
        )  # fmt: skip


def _to(places: Iterable[int]) -> str:
    numbers = ",".join(map(str, places))
    return f"{EPISODES}#row={numbers}" if numbers else ""


def _bracket(point: Mapping[str, float]) -> str:
    return f"{point['mean']:.3g} [{point['low']:.3g}, {point['high']:.3g}]"


def _dose(point: Mapping[str, Any]) -> str:
    return f"best of {point['best_of']}" if point["best_of"] > 1 else f"weight {point['weight']:g}"


def films_of(run: Run) -> list[Path]:
    """The films that `qgf evaluate --videos` has left in a run folder."""
    return sorted(p for p in (run.workdir / "report" / "videos").glob("*.gif") if p.is_file())


def copy_films(films: Iterable[Path], folder: Path) -> None:
    """Puts films into `videos` of a report elsewhere. Raises `OSError`."""
    for film in films:
        copy = folder / "videos" / film.name
        if film.parent.resolve() != copy.parent.resolve():
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(film, copy)


def divergences(run: Run) -> tuple[list[dict[str, Any]], str]:
    """The points of success against KL in a run folder, and what is wrong with them; "" if nothing."""
    path = run.workdir / KL
    try:
        points = json.loads(path.read_bytes())["points"]
        sound = [point for point in points if _is_point(point)]
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], str(UserError.unreadable(KL, error))
    except (ValueError, KeyError, TypeError, RecursionError):
        return [], f"{KL} is no result of `qgf analyze kl` and is left out."
    if len(sound) < len(points):
        return [], f"{KL} has points that are none and is left out."
    return sound, ""


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, dict)
        and all(Lines.is_number(point.get(name)) for name in _KL_NUMBERS)
        and all(isinstance(point.get(name), str) for name in ("method", "split", "of"))
    )


def _films(films: Iterable[Path]) -> str:
    """Films of the same start beside each other, by method and weight."""
    starts: dict[tuple[int, int], list[tuple[Any, str, str]]] = {}
    for path in films:
        if found := _FILM.fullmatch(path.stem):
            method, _, weight = found[2].partition("_weight")
            try:
                order = (bool(weight), method, float(weight or 0))
            except ValueError:
                order = (True, method, 0.0)
            words = f"{method}, weight {weight}" if weight else method
            starts.setdefault((int(found[1]), int(found[3])), []).append((order, words, path.name))
    parts = []
    for (task, episode), some in sorted(starts.items()):
        title = f"task {task}, episode {episode}"
        figures = "".join(_film(name, words, title) for _, words, name in sorted(some))
        body = f'<div class="films">{figures}</div>'
        parts.append(page.details(f"{title}: {len(some)} films", body, is_open=not parts))
    return "".join(parts)


def _film(name: str, words: str, title: str) -> str:
    address, about = page.text(f"videos/{quote(name)}"), page.text(f"{words}, {title}")
    return (
        f'<figure><img loading="lazy" src="{address}" alt="{about}">'
        f"<figcaption>{page.text(words)}</figcaption></figure>"
    )


def _command(run: Run, row: Row, episodes: set[int], tasks: Sequence[int]) -> str:
    """What plays a row's episodes from the run's folder, as a shell reads it."""
    arm = Arm.of(row)
    count = (max(episodes) - (row["split"] == "report")) // 2 + 1
    counts = {"report": (count, 0), "selection": (0, count)}[row["split"]]
    words = ["qgf", "evaluate", f"--workdir={run.workdir.resolve().name}"]
    words.append(f"--methods={':'.join([arm.method, *(f'{k}={v}' for k, v in arm.options)])}")
    words += [f"--weights={arm.weight!r}", f"--best_of={arm.best_of}", f"--step={row['step']}"]
    words += [f"--episodes={counts[0]}", f"--selection_episodes={counts[1]}"]
    if len(run.env.tasks) > 1:
        words.append(f"--tasks={','.join(map(str, sorted(tasks)))}")
    if row["env"].endswith(f" ({ON_DEVICE})"):
        words.append("--envs=jax")
    return shlex.join(words)


def _commands(run: Run) -> str:
    """What a record says of where it comes from; a run folder says no commands."""
    said = "The page of episodes has for each row the command that plays its episodes."
    about = run.workdir / recorded.ABOUT
    if not run.record.exists():
        return page.paragraphs([said])
    record = json.loads(about.read_bytes())
    commands = record.get("commands")
    lines = "\n".join(map(str, commands)) if isinstance(commands, list) else ""
    listed = f"<pre><code>{page.text(lines)}</code></pre>" * bool(lines)
    kept = json.dumps({k: v for k, v in record.items() if k != "commands"}, indent=1)
    origin = page.details("Machine, versions, checksums", f"<pre>{page.text(kept)}</pre>")
    return listed + page.paragraphs([said]) + origin


def _config(run: Run) -> str:
    record = (run.workdir / "config.json").read_text(encoding="utf-8", errors="replace")
    return page.details("Config, versions, data", f"<pre>{page.text(record)}</pre>")
