"""The pages of one run: index.html with tables, pictures and config, episodes.html with the lines."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.envs.families import ON_DEVICE
from qgf_jax.evaluation import recorded
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.choice import Tasks
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import ALL_TASKS, Key, complete
from qgf_jax.evaluation.summary import Row
from qgf_jax.report import cost, kl, page
from qgf_jax.report.films import Films
from qgf_jax.report.page import Cell, Section
from qgf_jax.report.tables import Panel, Part, Table, cell
from qgf_jax.runs.run import Run

EPISODES = "episodes.html"

_SELECTED = (
    "Marked rows: the smallest weight that one standard error does not tell from the best on the "
    "selection episodes{}. Every number is from the report episodes, which are others, and leads to "
    "them."
)
_WILSON = (
    "Of successes, intervals are never narrower than the Wilson interval of the distinct episodes."
)
_ON_DEVICE = f" ({ON_DEVICE})"
"""How the names of environments end whose episodes were played there."""
_LEADING = ("IQM [95 %]", "difference [95 %]")
"""The columns of numbers over all tasks that lead to their episodes."""


class Pages(NamedTuple):
    """What the pages of a run are made of."""

    run: Run
    own: Evaluated
    table: Table
    figures: Sequence[tuple[str, Path]]
    """(Caption, PNG)."""
    notes: Sequence[str]
    """What the tables leave out."""
    films: Films
    costs: Sequence[Mapping[str, Any]]
    """As `selection_cost.curves` has them."""

    def results(self, ways: Sequence[Cell] = ()) -> str:
        """The page of tables and pictures; `ways` lead elsewhere."""
        pictures = "".join(page.picture(path, caption) for caption, path in self.figures)
        sections = [
            *self._tables(),
            cost.section(self.costs),
            Section("Pictures", pictures),
            kl.section(self.run, self._of_point),
            Section("Films", self.films.html()),
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
        of: dict[str, list[int]] = {}
        for place, row in enumerate(self.table.rows):
            if row["selected"] and row["split"] == "report" and row["task"] != ALL_TASKS:
                name = Arm.of(row).sampler.label + _ON_DEVICE * _is_on_device(row)
                of.setdefault(name, []).append(place)
        method = one.head.index("method")
        lines = [
            [
                Cell(words, _to(of.get(line[method], ())) if name in _LEADING else "")
                for name, words in zip(one.head, line, strict=True)
            ]
            for line in one.lines
        ]
        return page.table(one.title, one.head, lines) + page.paragraphs(one.notes)

    def _name(self, row: Row) -> str:
        return f"{Panel.of(row).title}, {Arm.of(row).label}, {row['split']} episodes"

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
        keys = {task: own._replace(group=own.group._replace(task=task)) for task in tasks}
        out = [places[keys[task], seed, episode] for task, seed, episode in _left_out(tasks)]
        shown = [f"{name} {cell(row, name)}" for name in ("success", "return") if row[name]]
        episodes = {episode for played in tasks.values() for _, episode in played}
        return {
            "name": self._name(row),
            "numbers": f"{', '.join(shown)}, from {row['episodes']} episodes that count.",
            "groups": [groups[key] for key in keys.values()],
            "out": out,
            "command": _command(self.run, row, episodes, [*tasks]),
        }

    def _of_point(self, point: Mapping[str, Any]) -> str:
        """Where a point of success against KL leads."""
        names = ("task", "method", "best_of", "weight", "split")
        return _to(
            place for place, row in enumerate(self.table.rows)
            if not row["options"] and not _is_on_device(row)
            and all(row[name] == point[name] for name in names)
        )  # fmt: skip


def _left_out(tasks: Tasks) -> list[tuple[int, Any, int]]:
    """Task, seed and episode of the lines that a row does not count."""
    shared, seeds = complete(tasks)
    return [
        (task, seed, episode)
        for task, played in tasks.items() for seed, episode in sorted(played)
        if episode not in shared[task] or seed not in seeds
    ]  # fmt: skip


def _is_on_device(row: Row) -> bool:
    return row["env"].endswith(_ON_DEVICE)


def _to(places: Iterable[int]) -> str:
    numbers = ",".join(map(str, places))
    return f"{EPISODES}#row={numbers}" if numbers else ""


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
    if _is_on_device(row):
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
