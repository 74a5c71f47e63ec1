"""One table of several runs."""

import csv
import shutil
import types
from pathlib import Path

import pytest

from qgf_jax import cli
from qgf_jax.evaluation import evaluate
from qgf_jax.evaluation.arms import Arm
from qgf_jax.report import plots, report
from qgf_jax.types import Spec


def test_runs_are_compared_in_one_table(run_folder, tmp_path, capsys):
    folders = []
    for name in ("a", "b"):
        folders.append(shutil.copytree(run_folder, tmp_path / name))
        sweep = Arm.sweep(["reference", "qgf"], [1.0])
        evaluate.evaluate(folders[-1], sweep, episodes=1, selection_episodes=1, envs=2, workers=1)
    runs = ",".join(map(str, folders))
    cli.main(["report", f"--workdir={runs}", f"--out={tmp_path / 'both'}"])
    assert "trained as" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "both.csv").open()))
    assert len(rows) == 4 and {row["trained_as"] for row in rows} == {
        "qgf, iql (a)",
        "qgf, iql (b)",
    }
    assert (tmp_path / "both.md").read_text().count("| pointmaze") == 4


def test_losses_within_a_factor_of_ten_are_on_a_linear_axis(monkeypatch, tmp_path):
    """A logarithmic one would label it 4.62 x 10^0 and so on."""
    scales = {}

    def keep(figure, *_, **__):
        scales.update({ax.get_title(): ax.get_yscale() for ax in figure.axes})

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", keep)
    run = types.SimpleNamespace(spec=Spec(state=(3,), action=1, chunk=1).record())
    losses = [
        {"step": 1, "near/loss": 4.8, "far/loss": 9.0, "signed/loss": 1.0},
        {"step": 2, "near/loss": 4.6, "far/loss": 0.1, "signed/loss": -20.0},
    ]
    plots.draw(run, [], tmp_path, [], losses)
    assert scales == {"near/loss": "linear", "far/loss": "log", "signed/loss": "linear"}


@pytest.mark.whole
def test_a_run_with_several_checkpoints_has_a_learning_curve(run_folder, tmp_path, capsys):
    """The table stays that of the newest; a run with one checkpoint has no curve."""
    folder, sweep = shutil.copytree(run_folder, tmp_path / "run"), Arm.sweep(["reference"], [0.0])
    options = {"episodes": 2, "selection_episodes": 0, "envs": 2, "simulator": "jax"}
    evaluate.evaluate(folder, sweep, **options)
    report.write(folder)
    alone = {path.name for path in (folder / "report").iterdir()}
    table = (folder / "report" / "table.csv").read_text()
    evaluate.evaluate(folder, sweep, **options, follow=True)
    cli.main(["report", f"--workdir={folder}"])
    assert {path.name for path in (folder / "report").iterdir()} == alone | {
        "steps.csv",
        "steps.png",
    }
    assert (folder / "report" / "table.csv").read_text() == table
    rows = list(csv.DictReader((folder / "report" / "steps.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert all(row["success_low"] and row["success_high"] for row in rows)
    assert "4 lines of earlier checkpoints left out" in capsys.readouterr().out


def test_several_runs_need_a_place_for_their_table(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "--workdir=a,b"])
    assert stop.value.code == 2 and "--out" in capsys.readouterr().err


def test_a_sweeps_folder_stands_for_its_runs(tmp_path, monkeypatch):
    """By its name, and as the shell expands FOLDER/*, where files and the report are the sweep's own."""
    written = []
    monkeypatch.setattr("qgf_jax.report.site.write", lambda *a: written.append(a[:2]) or "")
    folder = tmp_path / "sweep"
    runs = [folder / "a", folder / "b"]
    for run in (*runs, folder / "report"):
        run.mkdir(parents=True)
        if run in runs:
            (run / "config.json").write_text("{}")
    (folder / "sweep.json").write_text("{}")
    cli.main(["report", str(folder)])
    cli.main(["report", *map(str, sorted(folder.iterdir())), "--out=site"])
    assert written == [(runs, folder / "report"), (runs, Path("site"))]


@pytest.mark.parametrize("lines", [3, 4, 5, 90])
def test_of_many_warnings_a_report_gives_the_first_and_their_number(lines, capsys):
    gaps = [
        f"weight {i}: {i} selection episodes of other weights are missing" for i in range(lines)
    ]
    report._warn(types.SimpleNamespace(gaps=lambda: gaps))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == min(lines, 5) and said[2].startswith("qgf: warning: weight 2: 2 selection")
    assert (f"qgf: warning: {lines - 4} more" in said[-1]) == (lines > 4)
