"""What a user calls a file is never read as anything else, by us or by what we use."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
from conftest import MAZE, ROOT
from public_agent import public_agent

from qgf_jax import cli
from qgf_jax import config as configs
from qgf_jax.cli import report
from qgf_jax.data.shards import _find
from qgf_jax.errors import UserError, one_line
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runtime import paths

HARD = Path(
    "a b[c]*?", "{d}!$(e);&|'\"", "\\n%s~", "new\nline\r\u2028\tand tab", "-h", "lr=1,seed:0",
    "\u00e9\u2192\U0001f600" + os.fsdecode(b"\xff"), "x" * 200, " ",
)  # fmt: skip
"""A folder within another for each kind of name that somebody has read as something else."""


def run(capsys, command, *words):
    """What a command prints; fails if it fails."""
    capsys.readouterr()
    try:
        cli.main([command, *map(str, words)])
    except SystemExit as leave:
        pytest.fail(f"{command} left with {leave.code}: {capsys.readouterr().err}")
    return capsys.readouterr().out


@pytest.fixture
def hard(tmp_path, monkeypatch):
    """An absolute path, and the working folder, in which names begin with a dash."""
    folder = tmp_path / HARD
    folder.mkdir(parents=True)
    (folder / "-c:d,e.py").write_text((ROOT / "tests" / "tiny_config.py").read_text())
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.whole
def test_every_command_takes_any_path(hard, maze_data, capsys):
    for path in maze_data.glob("*.npz"):
        shutil.copy(path, hard / f"-{path.name}")
    run(capsys, "collect", f"--env={MAZE}", "--episodes=1", "--out=-new", "--workers=1")
    assert {p.name for p in (hard / "-new").iterdir()} == {f"{MAZE}.npz", f"{MAZE}-val.npz"}
    run(capsys, "convert", "--out=-c", "--", f"-{MAZE}.npz")
    run(capsys, "verify", "--", hard / "-c" / f"-{MAZE}")
    train = ("--config=-c:d,e.py", f"--config.data.name=-{MAZE}", "--config.seeds=2")
    run(capsys, "train", *train, f"--config.data.dir={hard / '-c'}", "--workdir=-a,b")
    run(capsys, "train", *train, f"--config.data.dir={hard / '-c'}", f"--workdir={hard / '-a,b'}")
    run(capsys, "verify", "--", "-a,b")
    weights = ("--methods=qgf", "--weights=0,1", "--best_of=1")
    counts = ("--episodes=1", "--selection_episodes=1", "--envs=2", "--workers=1")
    run(capsys, "evaluate", "--workdir=-a,b", *weights, *counts)
    table = run(capsys, "report", f"--workdir={hard / '-a,b'}")
    assert "qgf" in table and (hard / "-a,b" / "report" / "sweep.png").is_file()
    shutil.copytree("-a,b", "-c,d")
    run(capsys, "report", "--workdir=-a,b,-c,d", "--out=-out,[1]")
    assert {"-out,[1].md", "-out,[1].csv", "-out,[1].json"} <= {p.name for p in hard.iterdir()}
    assert LoadedRun.open(hard / "-a,b").step == 4
    made = {"-a,b", "-c", "-c,d", "-new", "-out,[1].csv", "-out,[1].json", "-out,[1].md"}
    given = {"-c:d,e.py", f"-{MAZE}.npz", f"-{MAZE}-val.npz"}
    assert {p.name for p in hard.iterdir()} - {"__pycache__"} == made | given


def test_a_public_checkpoint_is_imported_from_and_to_any_path(hard, capsys):
    words = ["--config=-c:d,e.py", "--config.data.standardize=false", "--workdir=-run[1]"]
    (hard / "-params.pkl").write_bytes(pickle.dumps(public_agent()))
    run(capsys, "import-official", *words, "--", "-params.pkl")
    assert LoadedRun.open("-run[1]").step == 10
    run(capsys, "verify", "--", "-run[1]")


MISSING = {
    "train": ("--config=no\nsuch.py", "--workdir=x"),
    "collect": ("--env=cube\nsingle",),
    "convert": ("no\nsuch",),
    "evaluate": ("--workdir=no\nsuch",),
    "report": ("--workdir=no\nsuch",),
    "verify": ("no\nsuch",),
    "import-official": (
        "no\nsuch",
        "--config=-c:d,e.py",
        "--config.data.standardize=false",
        "--workdir=x",
    ),
}


@pytest.mark.parametrize("command", MISSING)
def test_an_error_about_a_path_with_a_line_break_is_one_line(command, hard, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, *MISSING[command]])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and len(error.splitlines()) == 1
    assert "\\n" in error and error.startswith("qgf: error: ")


def test_control_characters_are_shown_as_escapes():
    assert one_line("a  b\nc\r\u2028\x1b[0mé") == "a  b\\nc\\r\\u2028\\x1b[0mé"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder_in_flags_and_configs(home, maze_data, capsys):
    assert cli._kind(paths.expand)("~/x") == home / "x" and paths.expand("~") == home
    assert report._paths("~/x,~/y") == [home / "x", home / "y"]
    shutil.copy(maze_data / f"{MAZE}.npz", home / "x")
    assert _find(MAZE, "~/x") == home / "x" / f"{MAZE}.npz"
    shutil.copy(ROOT / "tests" / "tiny_config.py", home / "x" / "a:b.py")
    assert configs.load("~/x/a:b.py").seed == 0
    run(capsys, "convert", f"~/x/{MAZE}.npz", "--out=~/converted")
    assert (home / "converted" / MAZE).is_dir()
    assert not any(p.name.startswith("~") for p in home.parent.iterdir())


@pytest.mark.parametrize("text", ["", "a\0b", "~nobody-of-that-name/x", "x" * 300])
def test_what_no_file_can_be_called_is_refused_in_one_line(text, capsys):
    with pytest.raises(UserError):
        paths.expand(text)
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", text])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "there, text, expected",
    [
        ((), "a,b", ["a", "b"]),
        (("lr=0.1,seed=0",), "lr=0.1,seed=0", ["lr=0.1,seed=0"]),
        (("a,b", "c,d"), "a,b,c,d", ["a,b", "c,d"]),
        (("a", "b", "a,b"), "a,b,c", ["a,b", "c"]),
        (("b,c",), "a,b,c", ["a", "b,c"]),
        ((), "a", ["a"]),
        ((), ",".join("abcdefgh" * 40), list("abcdefgh" * 40)),
    ],
)
def test_a_path_that_exists_wins_over_a_separator(there, text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in there:
        Path(name).mkdir()
    assert paths.split(text, ",") == expected
    assert [str(one) for one in report._paths(text)] == expected


@pytest.mark.parametrize("name", ["x.py", "a:b/x.py", "a:b/c:d.py", ":.py"])
def test_a_config_below_a_path_with_a_colon(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    lines = "VARIANTS = ('', 'v')\nfrom qgf_jax import config\ndef get_config(variant=''):\n"
    lines += "    made = config.make()\n    made.env = 'cube-single-play-singletask-v0'\n"
    path.write_text(lines + "    made.seed = len(variant)\n    return made\n")
    assert configs.load(name).seed == 0 and configs.load(f"{name}:v").seed == 1
    with pytest.raises(UserError, match="variant"):
        configs.load(f"{name}:w")
