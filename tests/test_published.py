"""Published tables are what the episodes beside them say."""

import csv
import importlib.util
import re
import shutil
import tomllib

import pytest
from conftest import ROOT
from test_recorded import ENVS, lines_of, run_of

from qgf_jax.evaluation.over_tasks import aggregate
from qgf_jax.report import record, report

RESULTS = ROOT / "experiments" / "results"


def tool():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "experiments" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = tool()
RECORDS = sorted(path.parent for path in RESULTS.rglob("episodes.csv.gz"))


def test_every_published_table_with_episodes_is_made_of_them():
    made = dict(tables.made(RESULTS))
    assert {path.parent for path in made if path.name == "table.csv"} == {*RECORDS}
    stale = [path for path, text in made.items() if path.read_text() != text]
    assert not stale, f"run `make tables`: {', '.join(map(str, stale))}"


@pytest.mark.parametrize("folder", RECORDS, ids=lambda p: str(p.relative_to(RESULTS)))
def test_a_published_record_is_small_whole_and_in_a_table(folder):
    held = {path.name: path for path in folder.iterdir() if path.name != "report"}
    assert {*held} == {"config.json", "episodes.csv.gz", "record.json", "table.csv"}
    assert sum(path.stat().st_size for path in held.values()) < 2**20
    for name in ("config.json", "record.json"):
        assert not re.search(r'["= ][/~]', held[name].read_text()), name
    listed = tomllib.loads((RESULTS / "tables.toml").read_text()).values()
    named = [(table.get("runs", []), *table.get("groups", {}).values()) for table in listed]
    assert str(folder.relative_to(RESULTS)) in {
        name for lists in named for x in lists for name in x
    }


def test_the_files_that_the_page_names_are_there():
    links = re.findall(r"\]\(([^():#]+)\)", (RESULTS / "README.md").read_text())
    assert len(links) > 10 and [link for link in links if not (RESULTS / link).exists()] == []


SPEC = """
[one]
runs = ["here/a", "b"]
columns = ["method", "run", "weight", "success", "steps"]
sort = "success"
[two]
runs = ["b"]
columns = ["env", "task", "method", "weight", "return", "score", "episodes"]
rows = "all"
digits = { return = 0 }
[across]
baseline = "reference"
groups = { "" = ["here/a"], again = ["b"] }
family = ["best of 4", "qgf (again)"]
"""
GROUPS = {"here/a": "", "b": "again"}
PAGE = (
    "Prose.\n<!-- table one -->\nold\n<!-- end of table one -->\nMore: <!-- table two -->\n"
    "<!-- end of table two -->\n<!-- table across -->\n<!-- end of table across -->\nEnd.\n"
)


@pytest.fixture(scope="module")
def recorded_runs(tmp_path_factory):
    """Two records with tables made of them, nothing trained."""
    folder = tmp_path_factory.mktemp("results")
    run = run_of(folder / "run", ENVS[0], lines_of(ENVS[0]))
    for name in ("here/a", "b"):
        record.write(run.workdir, folder / "results" / name)
    return folder / "results"


@pytest.fixture
def results(recorded_runs, tmp_path):
    folder = shutil.copytree(recorded_runs, tmp_path / "results")
    (folder / "tables.toml").write_text(SPEC)
    (folder / "README.md").write_text(PAGE)
    return folder


def test_a_row_of_the_list_makes_a_table_of_the_page(results, capsys):
    tables.main([str(results)])
    assert len(capsys.readouterr().out.splitlines()) == 3
    text = (results / "README.md").read_text()
    prose = re.sub(r"(<!-- table \w+ -->\n).*?(<!-- end)", r"\1\2", text, flags=re.DOTALL)
    assert prose == PAGE.replace("old\n", "")
    one, two, across = (
        [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]
        for lines in re.findall(r"<!-- table \w+ -->\n(.*?)\n<!-- end", text, re.DOTALL)
    )
    assert one[0] == ["method", "run", "weight", "success", "steps"]
    body = one[2:]
    assert {row[1] for row in body} == {"a", "b"} and len(body) == 10  # five methods each
    means = [float(row[3].split()[0]) for row in body]
    assert means == sorted(means, reverse=True) and means[0] > means[-1]
    assert {row[2] for row in body if row[0] in ("reference", "best of 4")} == {""}
    with (results / "b" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    pooled = [row for row in rows if row["split"] == "report" and row["task"] == "0"]
    (best,) = (row for row in pooled if row["method"] == "best_of")
    (shown,) = (row for row in body if row[:2] == ["best of 4", "b"])
    mean, low, high = (float(best[f"success_{name}"]) for name in ("mean", "low", "high"))
    assert shown[3:] == [f"{mean:.2f} [{low:.2f}, {high:.2f}]", f"{float(best['length_mean']):.0f}"]
    body = two[2:]
    assert {row[1] for row in body} == {"all"} and len(body) == len(pooled) - 1  # qgf's weight 0
    bold = [row[2] for row in body if "**" in row[2]]
    assert bold == ["**qgf, selected**"] and re.fullmatch(r"-\d+ \[-\d+, -\d+\]", body[0][4])
    assert across[0] == ["method", "a", "mean", "difference", "p, Holm"]
    (best,) = (row for row in across if row[0] == "best of 4 (again)")
    assert best[1] == f"{mean:.2f}" and best[2] == f"{mean:.3f}" and best[3][0] in "+-"
    assert {row[3] for row in across if row[0] == "reference"} == {""}
    records = [report.evaluated(results / name, group) for name, group in GROUPS.items()]
    found = {(one["method"], one["trained_as"]): one for one in aggregate(records, "reference")}
    family = [found["best of 4", ""], found["qgf", "again"]]
    smaller, larger = sorted(one["difference"]["p"] for one in family)
    shown = {row[0]: row[4] for row in across[2:] if row[4]}
    assert shown.keys() == {"best of 4", "qgf (again)"}
    assert sorted(map(float, shown.values())) == pytest.approx(
        [min(1, 2 * smaller), min(1, max(2 * smaller, larger))], abs=5e-4
    )
    tables.main([str(results)])
    assert capsys.readouterr().out == ""


WRONG = {
    "unknown run 'c'": SPEC.replace('"b"', '"c"'),
    "unknown column 'wieght': did you mean 'weight'": SPEC.replace('"weight"', '"wieght"'),
    "unknown key 'digit'": SPEC.replace("digits", "digit"),
    "unknown value of sort, 'x'": SPEC.replace('sort = "success"', 'sort = "x"'),
    "unknown value of rows, 'x'": SPEC.replace('"all"', '"x"'),
    "one: runs is no list of names": SPEC.replace('["here/a", "b"]', '"b"'),
    "should have the comment lines of each table": SPEC.replace("[two]", "[three]"),
    "across: it needs baseline and groups": SPEC.replace('baseline = "reference"', ""),
    "across: unknown arm of family, 'qgff'": SPEC.replace('"qgf (again)"', '"qgff"'),
    "across: unknown run 'c'": SPEC.replace('again = ["b"]', 'again = ["c"]'),
    "tables.toml: ": "[",
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_list_is_one_line_and_changes_nothing(results, capsys, said):
    (results / "tables.toml").write_text(WRONG[said])
    with pytest.raises(SystemExit) as stop:
        tables.main([str(results)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and error.count("\n") == 1
    assert (results / "README.md").read_text() == PAGE and not list(results.rglob("table.csv"))
