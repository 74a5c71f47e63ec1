"""Makes the tables of experiments/results from the episodes that lie there: `make tables`.

    python experiments/tables.py [RESULTS]

Each folder with episodes.csv.gz gets its table.csv, which has all rows; in README.md, what stands
between `<!-- table NAME -->` and its end becomes the table NAME of tables.toml, which says how to add
one. Needs no network, no checkpoint and no JAX, and prints the files that have changed.
"""

import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.over_tasks import aggregate
from qgf_jax.evaluation.paired import Evaluated
from qgf_jax.evaluation.played import ALL_TASKS
from qgf_jax.evaluation.statistics import holm
from qgf_jax.report import report, tables
from qgf_jax.runs.files import write_atomically

RESULTS = Path(__file__).parent / "results"
_MEANS = ("success", "return", "score", "steps")
_BLOCK = re.compile(r"<!-- table (\S+) -->\n.*?<!-- end of table \1 -->", re.DOTALL)
Row = dict[str, Any]


def made(results: Path) -> Iterator[tuple[Path, str]]:
    """Each file with tables, and what it should hold. Raises `UserError`."""
    found = {
        str(path.parent.relative_to(results)): report.table(path.parent)
        for path in sorted(results.rglob("episodes.csv.gz"))
    }
    for name, table in found.items():
        yield results / name / "table.csv", table.csv()
    listed = results / "tables.toml"
    try:
        specs = tomllib.loads(listed.read_text())
    except ValueError as error:
        raise UserError(f"{listed}: {error}") from None
    page = results / "README.md"
    text = page.read_text()
    if sorted(_BLOCK.findall(text)) != sorted(specs) or text.count("<!-- table ") != len(specs):
        raise UserError(
            f"{page}: it should have the comment lines of each table in {listed.name} once: "
            f"{', '.join(specs)}"
        )
    drawn = {
        name: (
            _across(f"{listed}: {name}", spec, results)
            if "groups" in spec
            else _drawn(f"{listed}: {name}", spec, found)
        )
        for name, spec in specs.items()
    }
    yield (
        page,
        _BLOCK.sub(
            lambda block: (
                f"<!-- table {block[1]} -->\n{drawn[block[1]]}\n<!-- end of table {block[1]} -->"
            ),
            text,
        ),
    )


def _drawn(where: str, spec: Mapping[str, Any], found: Mapping[str, tables.Table]) -> str:
    """A table of tables.toml as Markdown."""
    _check(where, spec, found)
    rows = [
        {**row, "run": Path(run).name}
        for run in spec["runs"]
        for row in _rows(found[run], whole=spec.get("rows") == "all")
    ]
    if (by := spec.get("sort", "given")) != "given":
        rows.sort(key=lambda row: -_mean(row, by))
    body = [[_cell(row, name, spec) for name in spec["columns"]] for row in rows]
    return tables.grid([spec["columns"], *body])


def _across(where: str, spec: Mapping[str, Any], results: Path) -> str:
    """A table with a line for each arm and a column for each task, as tables.toml says."""
    needed, family = {"baseline", "groups"}, spec.get("family", [])
    if {*spec} - {"family"} != needed or len({*map(len, spec["groups"].values())}) != 1:
        raise UserError(
            f"{where}: it needs baseline and groups of as many runs each, and may have family"
        )
    for name in (name for names in spec["groups"].values() for name in names):
        if not (results / name / "episodes.csv.gz").exists():
            raise UserError(f"{where}: unknown run {name!r}")
    runs = {
        group: [report.evaluated(results / name, group) for name in names]
        for group, names in spec["groups"].items()
    }
    found = aggregate([run for group in runs.values() for run in group], spec["baseline"])
    names = [run.name for run in next(iter(runs.values()))]
    lines = [["method", *names, "mean", "difference", *(["p, Holm"] if family else [])]]
    chances = _adjusted(where, family, found)
    for one in found:
        means = [_success(run, one["method"]) for run in runs[one["trained_as"]]]
        text = _name(one)
        apart = one["difference"]
        between = apart and "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**apart)
        mean = sum(means) / len(means)
        cells = [text, *(f"{m:.2f}" for m in means), f"{mean:.3f}", between or ""]
        lines.append([*cells, *([chances.get(text, "")] if family else [])])
    return tables.grid(lines)


def _name(one: Mapping[str, Any]) -> str:
    """Of an arm, and of its group if that has one."""
    return one["method"] + (f" ({one['trained_as']})" if one["trained_as"] else "")


def _adjusted(
    where: str, family: Sequence[str], found: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """By arm of `family`: the chance of its difference from the baseline, adjusted over those (Holm)."""
    tested = {_name(one): one["difference"] for one in found if one["difference"]}
    for name in family:
        if name not in tested:
            raise UserError(f"{where}: {UserError.unknown('arm of family,', name, tested)}")
    return {
        name: f"{p:.3f}"
        for name, p in zip(family, holm([tested[name]["p"] for name in family]), strict=True)
    }


def _success(run: Evaluated, label: str) -> float:
    """Of an arm's selected weight; of all tasks, where a run has several."""
    selected = (row for row in run.rows if row["selected"] and row["split"] == "report")
    mine = [row for row in selected if Arm.of(row).sampler.label == label]
    return min(mine, key=lambda row: row["task"])["success"]["mean"]


def _check(where: str, spec: Mapping[str, Any], found: Mapping[str, tables.Table]) -> None:
    """Raises `UserError` unless a table of tables.toml names what there is."""
    named = {
        "key": (list(spec), ("runs", "columns", "rows", "sort", "digits")),
        "run": (spec.get("runs"), found),
        "column": (spec.get("columns"), ("run", *tables.COLUMNS)),
        "value of rows,": ([spec.get("rows", "all")], ("selected", "all")),
        "value of sort,": ([spec.get("sort", "given")], ("given", *_MEANS)),
    }
    for kind, (names, known) in named.items():
        if not names or not isinstance(names, list):
            raise UserError(f"{where}: {kind}s is no list of names")
        for name in names:
            if name not in known:
                raise UserError(f"{where}: {UserError.unknown(kind, str(name), known)}")


def _rows(table: tables.Table, *, whole: bool) -> list[Row]:
    """The rows of a run that are shown, and whether their method has a weight, and several."""
    weights: dict[Any, set[float]] = {}
    for row in table.rows:
        weights.setdefault(Arm.of(row).sampler, set()).add(row["weight"])
    pooled = {row["env"] for row in table.reported if row["task"] == ALL_TASKS}
    shown = []
    for row in table.reported:
        mine = weights[Arm.of(row).sampler]
        kept = row["selected"] or (whole and (row["weight"] or mine == {0.0}))
        if kept and (row["task"] == ALL_TASKS or row["env"] not in pooled):
            shown.append({**row, "several": len(mine) > 1, "weighted": mine != {0.0}})
    return shown


def _mean(row: Row, name: str) -> float:
    return row["length" if name == "steps" else name]["mean"]


def _cell(row: Row, name: str, spec: Mapping[str, Any]) -> str:
    if name == "run":
        return row["run"]
    if name == "weight" and not row["weighted"]:
        return ""
    text = tables.cell(row, name, spec.get("digits", {}).get(name))
    if name == "method" and spec.get("rows") == "all" and row["several"] and row["selected"]:
        return f"**{text}, selected**"
    return text


def main(arguments: Sequence[str]) -> None:
    try:
        for path, content in [
            *made(Path(*arguments[:1]) if arguments else RESULTS)
        ]:  # all, or none
            if not path.exists() or path.read_text() != content:
                write_atomically(path, content)
                print(path)
    except UserError as error:
        print(f"tables: error: {error}", file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    main(sys.argv[1:])
