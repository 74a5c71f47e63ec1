"""The rows of a report as text cells, Markdown, CSV and words."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from qgf_jax.evaluation import statistics
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.played import Group
from qgf_jax.evaluation.statistics import Interval
from qgf_jax.evaluation.summary import ALL_TASKS, Row, measure_of

_SELECTED = (
    "← the smallest weight that one standard error does not tell from the best on the selection "
    "episodes{}, which are others."
)

_OF_OPTIMISM = (
    "optimism: what the maximum over {} on these very report episodes, which is biased upwards, "
    "adds to what weights are selected by, and that maximum's weight."
)
_OF_AGGREGATES = (
    "Over all tasks, selected weights, a score for each seed and task (success, or the score between "
    "references): IQM: the mean of the middle half of the scores; P(better): the chance that a seed is "
    "better than one of the arm in `against`, the mean over tasks; difference: of success from that "
    "arm, paired, the mean over tasks, with a t interval; >x: the share of scores above x. "
    "[95 %] else: seeds resampled, so too narrow with fewer than five, and none with one."
)

_AnyRow = TypeVar("_AnyRow", bound=Mapping[str, Any])


class Panel(NamedTuple):
    """An environment and a task, which a picture or a chart of rows is of."""

    env: str
    task: int

    @property
    def title(self) -> str:
        """Its name."""
        return f"{self.env}, task {task_name(self.task)}"

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Panel":
        """Where a row belongs."""
        return cls(row["env"], row["task"])

    @classmethod
    def drawn(cls, rows: Iterable[Mapping[str, Any]]) -> list["Panel"]:
        """One for each task; of an environment with a mean over all tasks that alone."""
        found = sorted(set(map(cls.of, rows)))
        pooled = {env for env, task in found if task == ALL_TASKS}
        return [one for one in found if one.task == ALL_TASKS or one.env not in pooled]

    def rows(self, rows: Iterable[_AnyRow]) -> list[_AnyRow]:
        """Those that belong here."""
        return [row for row in rows if self.of(row) == self]


class Part(NamedTuple):
    """One of the tables of a report, as text."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    rows: Sequence[Row]
    """What `lines` are of; none of what is over all tasks."""
    notes: Sequence[str]
    """What its columns are."""

    def by_env(self) -> dict[str, "Part"]:
        """A part for each environment, without notes: simulators that differ never share one."""
        found: dict[str, Part] = {}
        for line, row in zip(self.lines, self.rows, strict=True):
            empty = self._replace(lines=(), rows=(), notes=())
            mine = found.get(row["env"], empty)
            found[row["env"]] = mine._replace(lines=[*mine.lines, line], rows=[*mine.rows, row])
        return found

    def markdown(self) -> str:
        """A Markdown table, with an arrow at selected rows."""
        place = self.head.index("method")
        lines = [list(line) for line in self.lines]
        for line, row in zip(lines, self.rows, strict=False):
            line[place] += " **←**" * row["selected"]
        return grid([self.head, *lines])


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows as `summary.summarize` makes them, of one run or of several."""

    rows: Sequence[Row]
    aggregates: Sequence[Mapping[str, Any]] = ()
    """Of many tasks, as `over_tasks.aggregate` makes them."""
    select_on: Sequence[int] = ()
    """The tasks whose selection episodes choose a weight; empty: each by its own, or by all together."""

    @property
    def reported(self) -> list[Row]:
        """The rows of report episodes."""
        return [row for row in self.rows if row["split"] == "report"]

    def parts(self) -> list["Part"]:
        """The tables that a reader sees: results, differences, and over all tasks; the last two if any.

        Rows of several runs, with `trained_as`, have a column for it.
        """
        found = [_results(self.reported, self.notes())]
        if compared := _compared(self.reported):
            found.append(_differences(compared))
        if self.aggregates:
            head, *lines = _aggregate_lines(self.aggregates)
            found.append(Part("All tasks", head, lines, (), [_OF_AGGREGATES]))
        return found

    def markdown(self) -> str:
        """All `parts` as Markdown, the selected weight of each method marked."""
        texts = [text for part in self.parts() for text in (part.markdown(), *part.notes)]
        return "\n\n".join([texts[0], _SELECTED.format(self.of_tasks), *texts[1:]])

    @property
    def of_tasks(self) -> str:
        """What words about the selection episodes add: of which tasks they are."""
        names = " and ".join(map(str, self.select_on))
        return f" of task{'s' * (len(self.select_on) > 1)} {names}" if names else ""

    def csv(self) -> str:
        """All rows, with success_mean, success_low and so on as columns."""
        flat = [_flat(row) for row in self.rows]
        names = dict.fromkeys(name for line in flat for name in line)
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return text.getvalue()

    def notes(self) -> list[str]:
        """What the brackets of the report rows are, a line for each kind; then what rows lack."""
        kinds = dict.fromkeys(row["interval"] for row in self.reported)
        words = [f"[95 %], {kind}: {statistics.KINDS[kind]}." for kind in kinds]
        several = any("configuration" in row for row in self.reported)
        over = _OF_OPTIMISM.format("configurations and weights" if several else "weights")
        return [*words, *[over] * _has_optimism(self.reported), *self.gaps()]

    def gaps(self) -> list[str]:
        """A line for each row that lacks episodes: what was left out, and what could not be ranked."""
        choosing: dict[Group, set[float]] = {}  # the weights with selection episodes
        for row in self.rows:
            if row["split"] == "selection":
                choosing.setdefault(Group.of(row), set()).add(row["weight"])
        found: dict[str, None] = {}
        for row in self.rows:
            if row["task"] != ALL_TASKS:  # its tasks say it
                arm = f"{Arm.of(row).sampler.label}, weight {row['weight']:g}"
                for gap in _gaps_of(row, choosing):
                    found[f"{Panel.of(row).title}, {arm}: {gap}"] = None
        return list(found)

    def optimistic(self) -> list[Row]:
        """The best report row of each method, chosen on the very episodes it reports: biased upwards.

        What the public code logs as its success; kept under this name for comparison with it.
        """
        best: dict[Group, Row] = {}
        for row in self.reported:
            group = Group.of(row)
            if group not in best or _rank(row) > _rank(best[group]):
                best[group] = row
        return list(best.values())


def add_optimism(rows: Sequence[Row]) -> None:
    """Gives selected report rows their `optimism`: what the maximum over weights would have added.

    `gap`, `of` success, or of return where no weight has any, and the `weight` of the maximum, as
    `Table.optimistic` has it, with its `configuration` where rows are of several. Rows without a rival
    have none.
    """
    table = Table(rows)
    played: dict[Group, list[Row]] = {}
    best = {Group.of(row): row for row in table.optimistic()}
    for row in table.reported:
        played.setdefault(Group.of(row), []).append(row)
    for row in table.reported:
        rivals = played[Group.of(row)]
        if row["selected"] and len(rivals) > 1:
            other, name = best[Group.of(row)], measure_of(rivals)
            gap = other[name]["mean"] - row[name]["mean"]
            row["optimism"] = {"of": name, "gap": gap, "weight": other["weight"]}
            if "configuration" in other:
                row["optimism"]["configuration"] = other["configuration"]


def _has_optimism(rows: Iterable[Row]) -> bool:
    return any("optimism" in row for row in rows)


def _optimism(row: Row) -> str:
    if "optimism" not in row:
        return "-"
    found = row["optimism"]
    digits = _DIGITS[found["of"]]
    where = [found[k] for k in ("configuration",) if found.get(k) != row.get(k)]
    where += [f"{found['weight']:g}"] * (found["weight"] != row["weight"])
    return f"{found['gap']:+.{digits}f}{' at ' * bool(where)}{', '.join(where)}"


def _rank(row: Row) -> tuple[float, float, float]:
    success = row["success"]["mean"] if row["success"] else 0.0
    return success, row["return"]["mean"], -row["weight"]


def _shown(rows: Iterable[Row]) -> list[str]:
    """The numbers of `_DIGITS` that any of the rows has."""
    rows = list(rows)
    return [name for name in _DIGITS if any(row.get(name) for row in rows)]


def _gaps_of(row: Row, choosing: Mapping[Group, set[float]]) -> Iterator[str]:
    if row["left_out"]:
        yield f"{row['left_out']} {row['split']} episodes that only some seeds have played are left out"
    group = Group.of(row)
    for scope, what in ((group, ""), (group.pooled, " of all tasks")):
        if scope in choosing and row["weight"] not in choosing[scope]:
            yield f"without selection episodes{what} it cannot be selected"
    if row["split"] == "selection" and row["missing"]:
        ranked = f"weights are ranked on the {row['ranked_on']} that all have"
        alone = "it shares too few with them and cannot be selected"
        yield (
            f"{row['missing']} selection episodes of other weights are missing, so "
            f"{ranked if row['ranked_on'] else alone}"
        )


def task_name(task: int) -> str:
    """How a task is written."""
    return "all" if task == ALL_TASKS else str(task)


def _cells(row: Row) -> dict[str, str]:
    """How a row's task, method, weight and number of episodes are written.

    A method has its options, and its N where that is not 1; a number of episodes has how many seeds
    played them, and how many of them a simulator could not play.
    """
    seeds = f" / {row['seeds']} seeds" if row["seeds"] > 1 else ""
    failed = f" ({row['failed']} not played to the end)" if row.get("failed") else ""
    return {
        "task": task_name(row["task"]),
        "method": Arm.of(row).sampler.label,
        "weight": f"{row['weight']:g}",
        "episodes": f"{row['episodes']}{seeds}{failed}",
    }


def cell(row: Row, column: str, digits: int | None = None) -> str:
    """How a row has one of `COLUMNS`; `digits` after the point of a mean, or as many as it always has.

    Means have their 95 % interval in brackets, but for the steps; "-" stands where a row has none.
    """
    if column == "steps":
        return f"{row['length']['mean']:.{digits or 0}f}"
    if column in _DIGITS:
        return _interval(row.get(column), _DIGITS[column] if digits is None else digits)
    return row["env"] if column == "env" else _cells(row)[column]


COLUMNS = ("env", "task", "method", "weight", "success", "return", "score", "steps", "episodes")
"""What `cell` writes."""


def grid(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of a head and further lines, its columns aligned."""
    head, *body = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]

    def drawn(line: Sequence[str]) -> str:
        return f"| {' | '.join(map(str.ljust, line, widths))} |"

    return "\n".join(map(drawn, [head, ["-" * w for w in widths], *body]))


def _results(rows: Sequence[Row], notes: Sequence[str]) -> Part:
    shown = _shown(rows)
    brackets = [f"{name} [95 %]" for name in shown if name != "length"]
    head = ["env", "task", "method", "weight", *brackets, "length", "n"]
    lines = [_line(row, shown) for row in rows]
    if _has_optimism(rows):
        head.append("optimism")
        lines = [[*line, _optimism(row)] for line, row in zip(lines, rows, strict=True)]
    if any("trained_as" in row for row in rows):
        head.insert(2, "trained as")
        for line, row in zip(lines, rows, strict=True):
            line.insert(2, row["trained_as"])
    return Part("Results", head, lines, rows, notes)


def _line(row: Row, shown: Sequence[str]) -> list[str]:
    written = _cells(row)
    return [
        row["env"],
        written["task"],
        written["method"],
        written["weight"],
        *(_interval(row.get(k), _DIGITS[k]) for k in shown if k != "length"),
        f"{row['length']['mean']:.0f}",
        written["episodes"],
    ]


def _interval(value: dict[str, float] | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _signed(found: Mapping[str, float], digits: int) -> str:
    mean, low, high = (f"{found[name]:+.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _compared(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.get("paired")]


def _differences(compared: Sequence[Row]) -> Part:
    """How rows differ from the baseline; all of `compared` have one."""
    family = sum(row["paired"]["p_holm"] is not None for row in compared)
    kinds = dict.fromkeys(row["paired"]["interval"] for row in compared)
    alone = any(not row["paired"]["same_seeds"] for row in compared)
    notes = [
        "difference: less the arm in `against`, over the (seed, episode) pairs that both have "
        "played; p: of no difference, two-sided; p (Holm): adjusted for the "
        f"{family} selected rows of this table; detectable: what such a test finds with 80 % "
        "power at alpha .05.",
        *(f"[95 %], {kind}: {statistics.DIFFERENCE_KINDS[kind]}." for kind in kinds),
        *["*: no seed in common, so episodes alone are paired."] * alone,
    ]
    lines = [*map(_differences_line, compared)]
    return Part("Differences", _differences_head(compared), lines, compared, notes)


def _differences_head(rows: Sequence[Row]) -> list[str]:
    names = ["trained as"] * ("trained_as" in rows[0])
    numbers = ["difference [95 %]", "p", "p (Holm)", "detectable", "pairs"]
    return ["env", "task", *names, "method", "weight", "against", "of", *numbers]


def _differences_line(row: Row) -> list[str]:
    written, found = _cells(row), row["paired"]
    seeds = f" / {found['seeds']} seeds" if found["seeds"] > 1 else ""
    return [
        row["env"],
        written["task"],
        *([row["trained_as"]] if "trained_as" in row else []),
        written["method"],
        written["weight"],
        found["baseline"],
        found["measure"],
        _signed(found, _DIGITS[found["measure"]]),
        _chance(found["p"]),
        "-" if found["p_holm"] is None else _chance(found["p_holm"]),
        f"{found['detectable']:.{_DIGITS[found['measure']]}f}",
        f"{found['pairs']}{seeds}{'' if found['same_seeds'] else ' *'}",
    ]


def _aggregate_lines(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A head and a line for each record."""
    several = any(one["trained_as"] for one in records)
    levels = [f">{level}" for level in records[0]["profile"]]
    names = ["trained as"] * several + [
        "method",
        "IQM [95 %]",
        "against",
        "P(better) [95 %]",
        "difference [95 %]",
    ]
    lines = [[*names, *levels, "n"]]
    for one in records:
        lines.append(
            [
                *[one["trained_as"]] * several,
                one["method"],
                _maybe_interval(one["iqm"]),
                one["baseline"] or "-",
                _maybe_interval(one["improvement"]),
                _signed(one["difference"], 2) if one["difference"] else "-",
                *(f"{share:.2f}" for share in one["profile"].values()),
                f"{one['scores']} / {one['tasks']} tasks",
            ]
        )
    return lines


def _maybe_interval(value: dict[str, float] | None) -> str:
    if value and value["low"] is None:
        return f"{value['mean']:.2f}"
    return _interval(value, 2)


def _chance(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


_DIGITS = {"success": 2, "return": 1, "score": 2, "length": 0}
"""After the point. Rows of some environments have no success, and those of most data no score."""


def _flat(row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for key, value in row.items():
        if key == "options":
            line[key] = ":".join(f"{k}={v}" for k, v in value.items())
        elif isinstance(value, dict):
            line |= {f"{key}_{k}": v for k, v in value.items()}
        elif value is None:
            line |= {f"{key}_{k}": "" for k in Interval._fields}
        else:
            line[key] = value
    return line
