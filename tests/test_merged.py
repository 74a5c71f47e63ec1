"""Seeds of several folders as one sample: what joins, what stays apart, and what a table says of it."""

import csv
import json
import shutil

import pytest
from test_paired import lines_for

from qgf_jax import cli
from qgf_jax.envs.families import EnvName
from qgf_jax.report import merged
from qgf_jax.runs.alike import Comparison
from qgf_jax.runs.files import Lines
from qgf_jax.runs.run import Run


@pytest.fixture
def folder(run_folder, tmp_path):
    """A function that makes a run of one seed with made-up episodes and, it may be, a changed record."""
    env = EnvName.parse(Run.open(run_folder).config["env"]).label

    def make(name, seed, lines, seeds=1, **changed):
        path = shutil.copytree(run_folder, tmp_path / name)
        record = json.loads((path / "config.json").read_text())
        record["config"] |= {"seed": seed, "seeds": seeds}
        record["git_commit"] = "a" * 40
        for key, value in changed.items():
            *more, last = key.split("__")
            inside = record
            for part in more:
                inside = inside[part]
            inside[last] = value
        (path / "config.json").write_text(json.dumps(record))
        text = "".join(json.dumps({**line, "env": env}) + "\n" for line in lines)
        (path / "episodes.jsonl").write_text(text)
        return path

    return make


def table_of(tmp_path, capsys, *folders, more=()):
    """(what was printed, the rows of the CSV)."""
    out = tmp_path / "out"
    cli.main(["report", f"--workdir={','.join(map(str, folders))}", f"--out={out}", *more])
    return capsys.readouterr().out, [*csv.DictReader((tmp_path / "out.csv").open())]


def both(qgf, base):
    return [*lines_for("qgf", qgf, weight=1.0), *lines_for("best_of", base, best_of=4)]


def test_seeds_of_three_folders_are_one_row_and_one_paired_sample(folder, tmp_path, capsys):
    folders = [
        folder(f"s{i}", i, both([1, 1, int(i == 0), 0], [0, 0, 0, int(i < 2)])) for i in range(3)
    ]
    text, rows = table_of(tmp_path, capsys, *folders)
    (row,) = (row for row in rows if row["method"] == "qgf")
    assert (row["seeds"], row["episodes"], row["trained_as"]) == ("3", "12", "qgf, iql")
    assert float(row["success_mean"]) == pytest.approx(7 / 12)
    assert (row["paired_seeds"], row["paired_pairs"]) == ("3", "12")
    assert float(row["paired_mean"]) == pytest.approx(7 / 12 - 2 / 12)
    assert "seeds 0, 1, 2 of s0, s1, s2 are one sample" in text


def test_a_run_of_three_seeds_has_the_rows_of_three_folders(folder, tmp_path, capsys):
    """As a sweep makes of them with and without --pack."""
    played = [both([1, 1, int(i == 0), 0], [0, 0, 0, int(i < 2)]) for i in range(3)]
    alone = [folder(f"s{i}", i, lines) for i, lines in enumerate(played)]
    lines = [{**line, "seed": i} for i, lines in enumerate(played) for line in lines]
    packed = folder("s0..2", 0, lines, seeds=3)
    own = [table_of(tmp_path, capsys, *folders)[1] for folders in (alone, [packed])]
    assert own[0] == own[1] and own[0]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"git_commit": "b" * 40}, "commit: aaaaaaaaaaaa -> bbbbbbbbbbbb"),
        ({"dataset__sha256": "c" * 64}, "data sha256: "),
        ({"versions__mujoco": "0.0"}, "mujoco: "),
        ({"config__train__batch_size": 77}, "train.batch_size: "),
        ({"config__train__steps": 77}, "train.steps: "),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_anything_else_keeps_seeds_apart_and_is_named(folder, tmp_path, capsys, changed, named):
    first = folder("a", 0, both([1, 1, 1, 0], [0, 0, 0, 0]))
    other = folder("b", 1, both([1, 1, 0, 0], [0, 0, 0, 0]), **changed)
    text, rows = table_of(tmp_path, capsys, first, other)
    assert [row["seeds"] for row in rows] == ["1"] * 4
    assert {row["trained_as"] for row in rows} == {"qgf, iql (a)", "qgf, iql (b)"}
    (line,) = (line for line in text.splitlines() if "is no further seed of" in line)
    assert named in line and str(other) in line and str(first) in line


def test_places_and_other_packages_do_not_keep_seeds_apart(folder):
    first = Run.open(folder("a", 0, []))
    moved = {"config__data__dir": "elsewhere", "config__eval__envs": 7, "versions__numpy": "0.1"}
    other = Run.open(folder("b", 1, [], **moved))
    assert Comparison(first, other).changes() == []


def test_another_checkpoint_is_another_sample(folder, tmp_path, capsys):
    first = folder("a", 0, both([1, 1, 1, 0], [0, 0, 0, 0]))
    later = [{**line, "step": 20} for line in both([1, 1, 1, 0], [0, 0, 0, 0])]
    text, rows = table_of(tmp_path, capsys, first, folder("b", 1, later))
    assert len(rows) == 4 and "10 -> 20" in text


def test_a_seed_that_was_trained_twice_counts_once(folder, tmp_path, capsys):
    """Folder b has seeds 1 and 2, and a has seeds 0 and 1: its seed 1 of all ones does not count."""
    second = [{**line, "seed": 1} for line in both([0, 0, 0, 0], [0, 0, 0, 0])]
    first = folder("a", 0, [*both([1, 1, 1, 1], [0, 0, 0, 0]), *second], seeds=2)
    more = [{**line, "seed": 1} for line in both([1, 0, 0, 0], [0, 0, 0, 0])]
    other = folder("b", 1, [*both([1, 1, 1, 1], [0, 0, 0, 0]), *more], seeds=2)
    text, rows = table_of(tmp_path, capsys, first, other)
    (row,) = (row for row in rows if row["method"] == "qgf")
    assert (row["seeds"], row["episodes"]) == ("3", "12")
    assert float(row["success_mean"]) == pytest.approx(5 / 12)
    assert f"{other} has trained seed 1 again: counted once, as in {first}" in text


def test_a_run_of_the_same_seeds_alone_is_a_line_of_its_own(folder, tmp_path, capsys):
    lines = both([1, 1, 1, 0], [0, 0, 0, 0])
    text, rows = table_of(tmp_path, capsys, folder("a", 0, lines), folder("b", 0, lines))
    assert [row["seeds"] for row in rows] == ["1"] * 4
    assert "has trained seed 0 again, which a has: no seed counts twice" in text


def test_a_weight_that_other_seeds_have_not_reported_is_named(folder, tmp_path, capsys):
    """Each folder has reported what its own seed selects; of both together weight 1 is selected."""

    def choosing(one, three):
        lines = [*lines_for("qgf", one, weight=1.0), *lines_for("qgf", three, weight=3.0)]
        return [{**x, "split": "selection", "episode": x["episode"] - 1} for x in lines]

    first = [*choosing([1] * 8, [0] * 8), *lines_for("qgf", [1, 1], weight=1.0)]
    second = [*choosing([0] * 6 + [1] * 2, [0] * 5 + [1] * 3)]
    second += lines_for("qgf", [1, 1], weight=3.0)
    text, rows = table_of(tmp_path, capsys, folder("a", 0, first), folder("b", 1, second))
    assert [(row["weight"], row["seeds"]) for row in rows] == [("1.0", "1")]
    assert "1 of 2 seeds have reported weight 1, which is selected" in text


def test_code_that_nobody_knows_is_said(folder, tmp_path, capsys):
    edited = {"git_commit": "d" * 40 + "-dirty", "versions__numpy": "0.1"}
    folders = [folder(f"s{i}", i, both([1, 1, 0, 0], [0, 0, 0, 0]), **edited) for i in range(2)]
    text, _ = table_of(tmp_path, capsys, *folders)
    assert "the code was edited after commit dddddddddddd" in text
    samples, notes = merged.Sample.merge(
        [(Run.open(one), Lines(one, both([1, 0], [0, 0]), [])) for one in folders]
    )
    assert len(samples) == 1 and len(notes) == 1
