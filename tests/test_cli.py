"""The commands as a user types them: one small run from collecting to the report, and every mistake."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LONG, ROOT

from qgf_jax import cli, schema
from qgf_jax.cli import keys

SMOKE = ROOT / "experiments" / "configs" / "smoke.py"


ONE_DEVICE = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1")}


def qgf(*words, cwd, timeout=240):
    return subprocess.run(
        [sys.executable, "-m", "qgf_jax", *map(str, words)],
        cwd=cwd, capture_output=True, text=True, timeout=timeout, env=ONE_DEVICE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which the commands of the README were run, small."""
    place = tmp_path_factory.mktemp("cli")
    commands = [
        ("train", f"--config={SMOKE}", "--workdir=runs/x", "--config.train.steps=100"),
        ("evaluate", "--workdir=runs/x", "--weights=0,1", "--episodes=1", "--workers=2"),
        ("report", "--workdir=runs/x"),
    ]
    for command in commands:
        result = qgf(*command, cwd=place)
        assert result.returncode == 0, result.stderr
    return place


@pytest.mark.whole
def test_run_folder_has_what_other_tools_rely_on(place):
    run = place / "runs" / "x"
    for name in ("config.json", "metrics.jsonl", "episodes.jsonl"):
        assert (run / name).stat().st_size > 0
    report = run / "report"
    for name in (
        "table.md",
        "table.csv",
        "index.html",
        "episodes.html",
        "sweep.png",
        "training.png",
        "field.png",
    ):
        assert (report / name).stat().st_size > 0
    rows = json.loads((report / "summary.json").read_text())["rows"]
    assert {(r["method"], r["weight"], r["best_of"]) for r in rows} == {
        ("reference", 0.0, 1), ("best_of", 0.0, 4), ("qgf", 0.0, 1), ("qgf", 1.0, 1),
    }  # fmt: skip
    for row in rows:
        assert (
            row["episodes"] == 1 and row["seeds"] == 1 and row["split"] in ("selection", "report")
        )
        for name in ("success", "return"):
            assert row[name]["low"] <= row[name]["mean"] <= row[name]["high"]
    page = (report / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 5 and "://" not in page.split("<details>")[0]


def test_verify_tells_sound_from_altered(place):
    result = qgf("verify", "runs/x", cwd=place)
    assert result.returncode == 0 and json.loads(result.stdout.splitlines()[-1])["sound"]
    steps = place / "runs" / "x" / "checkpoints" / "100"
    victim = max((p for p in steps.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    good = victim.read_bytes()
    victim.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    result = qgf("verify", "runs/x", cwd=place)
    victim.write_bytes(good)
    assert result.returncode == 2 and victim.name in result.stderr


def test_same_command_again_has_nothing_to_do(place):
    before = (place / "runs/x/metrics.jsonl").read_text()
    command = ("train", f"--config={SMOKE}", "--workdir=runs/x", "--config.train.steps=100")
    assert qgf(*command, cwd=place).returncode == 0
    assert (place / "runs/x/metrics.jsonl").read_text() == before


@pytest.mark.skipif(not LONG, reason="make reliability: it renders in software")
def test_film_shows_the_episode(place):
    words = ("--workdir=runs/x", "--methods=qgf", "--weights=1", "--episodes=1", "--videos=1")
    result = qgf("evaluate", *words, cwd=place)
    if "install libegl1" in result.stderr:
        pytest.skip("no software rendering on this machine")
    assert result.returncode == 0, result.stderr
    from PIL import Image

    (film,) = (place / "runs/x/report/videos").glob("*.gif")
    with Image.open(film) as image:
        assert image.n_frames > 10 and image.size == (240, 240)


MISTAKES = {
    "unknown command": (("trian",), "did you mean 'train'"),
    "unknown flag": (("report", "--workdr=runs/x"), "qgf report --help"),
    "unknown key": (
        ("train", f"--config={SMOKE}", "--workdir=runs/x", "--config.policy.time_gird=3"),
        "did you mean 'policy.time_grid'",
    ),
    "other config": (
        ("train", f"--config={SMOKE}", "--workdir=runs/x", "--config.data.chunk=4"),
        "data.chunk: 5 -> 4",
    ),
    "nothing to add": (("train", "--from=runs/x", "--workdir=n"), "--from=RUN --add=PART"),
    "no such part": (("train", "--from=runs/x", "--add=agff", "--workdir=n"), "did you mean 'agf'"),
    "unknown method": (("evaluate", "--workdir=runs/x", "--methods=qgff"), "did you mean 'qgf'"),
    "unknown environment": (
        ("train", f"--config={SMOKE}", "--workdir=n", "--config.env=cube-singletask"),
        "singletask",
    ),
    "no data": (
        (
            "train",
            f"--config={SMOKE}",
            "--workdir=n",
            "--config.env=cube-single-play-singletask-v0",
        ),
        "qgf collect --env=cube-single-play-v0",
    ),
    "no run": (("evaluate", "--workdir=nowhere"), "run `qgf train` first"),
    "not evaluated": (("report", "--workdir=runs/y"), "run `qgf evaluate` first"),
    "task out of range": (("evaluate", "--workdir=runs/x", "--tasks=7"), "tasks 1 to 5"),
    "weights that are none": (("evaluate", "--workdir=runs/x", "--weights=a"), "--weights"),
    "too few episodes for a bandit": (
        ("evaluate", "--workdir=runs/x", "--weights=1,2,3", "--select=bandit", "--budget=4"),
        "give --budget=5 or more, or fewer --weights",
    ),
    "a budget without a bandit": (
        ("evaluate", "--workdir=runs/x", "--budget=9"),
        "--select=bandit",
    ),
    "a bandit with two budgets": (
        ("evaluate", "--workdir=runs/x", "--select=bandit", "--selection_episodes=9"),
        "leave --selection_episodes out",
    ),
    "cannot be collected": (("collect", "--env=antmaze-medium-navigate-v0"), "low-level policy"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_gets_one_line_and_code_2(case, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    other = Path("runs/y")
    other.mkdir(exist_ok=True)
    (other / "config.json").write_text(Path("runs/x/config.json").read_text())
    words, hint = MISTAKES[case]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and hint in error
    assert error.startswith("qgf: error: ") and error.count("\n") == 1
    assert not Path("n", "config.json").exists()  # nothing half-written


def test_truncated_dataset_is_named(place, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    source = place / "data" / "smoke" / "pointmaze-medium-stitch-v0.npz"
    (data / source.name).write_bytes(source.read_bytes()[:5000])
    words = (f"--config={SMOKE}", "--workdir=n", f"--config.data.dir={data}")
    result = qgf("train", *words, cwd=place)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert source.name in result.stderr and "cut off" in result.stderr


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_exists_with_an_example_where_there_are_flags(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and f"qgf {command}" in text
    if command in ("collect", "train", "evaluate", "report"):
        assert "example:" in text


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (
            "goals.subgoal_steps",
            "--config.goals.subgoal_steps=0 (25 for hiql)\n"
            "    environment steps to the subgoals of two-level policies; 0: no subgoals\n"
            "    a whole number from 0 to 2147483647\n"
            "    a resumed run keeps it\n"
            "    formerly goals.waypoint\n",
        ),
        ("goals.waypoint", "--config.goals.subgoal_steps=0 (25 for hiql)\n"),
        ("data.masks", "one of task, trajectory\n"),
        ("train.steps", "a resumed run may change it\n"),
        ("networks.critic_output", "=linear (sigmoid for critic dqc)\n"),
        ("critics.td.rho", "=0.5 (0.0 for fql; 1.0 for rebrac)\n"),
        ("policy.delay", "of rebrac\n"),
        ("config.eval", "--config.eval.episodes=50\n"),
        ("algorithm", "--config.algorithm=qgf\n    method that is trained\n    one of reference, "),
    ],
)
def test_help_on_a_key_says_what_it_is(topic, expected, capsys):
    for words in (["train", f"--help={topic}"], ["train", "--help", topic]):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 0 and expected in capsys.readouterr().out


def test_help_on_a_section_is_of_all_its_keys_and_of_no_others(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help=data"])
    found = re.findall(r"^--config\.([a-z_.]+)=", capsys.readouterr().out, re.MULTILINE)
    keys = [key for key in schema.fields("qgf", "iql") if key.startswith("data.")]
    assert found == keys


@pytest.mark.parametrize(
    ("topic", "near"),
    [("data.chnk", "data.chunk"), ("dat.chunk", "data.chunk"), ("critics.iqll", "critics.iql")],
)
def test_help_on_no_key_names_the_nearest(topic, near, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", f"--help={topic}"])
    line = f"qgf: error: unknown config key {topic!r}: did you mean {near!r}?\n"
    assert stop.value.code == 2 and capsys.readouterr().err == line


def test_the_page_of_keys_is_up_to_date():
    """`python -m qgf_jax.cli.keys > docs/config.md` makes it."""
    assert (ROOT / "docs" / "config.md").read_text() == keys._page()
