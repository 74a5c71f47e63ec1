"""Files are data: nothing in them is ever run, and nothing is fetched from elsewhere."""

import ast
import io
import json
import pickle

import numpy as np
import pytest
from conftest import ROOT
from processes import Server

from qgf_jax.errors import UserError
from qgf_jax.runs.loaded import LoadedRun

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen"}
SOURCES = [
    p for folder in ("qgf_jax", "experiments", "benchmarks") for p in (ROOT / folder).rglob("*.py")
]


def forbidden(source):
    """What a file does that it must not, as text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield node.module
        elif isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "id", getattr(function, "attr", ""))
            owner = getattr(getattr(function, "value", None), "id", "")
            if name in CALLS and owner in ("", "os", "builtins"):
                yield name
            if owner == "yaml" and name == "load":
                yield "yaml.load"
            for keyword in node.keywords:
                on = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
                if keyword.arg in ("allow_pickle", "shell") and on:
                    yield f"{keyword.arg}="


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_source_unpickles_or_runs_text(path):
    found = [x for x in forbidden(path.read_text()) if not x.startswith("compile")]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "import dill.source", "eval(x)", "os.system(x)",
        "np.load(p, allow_pickle=True)", "np.load(p, allow_pickle=flag)", "run(x, shell=True)",
        "yaml.load(x)", "exec(open(p).read())",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line):
    assert list(forbidden(line))


class Hostile:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_hostile_constants_beside_a_checkpoint_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = io.BytesIO()
    np.savez(
        raw, q_std=np.array([Hostile()], object), values=np.zeros(1), vectors=np.zeros(1), step=1
    )
    bare = io.BytesIO()
    np.save(bare, np.zeros(3))
    for content in (pickle.dumps(Hostile()), raw.getvalue(), bare.getvalue(), b"", b"PK"):
        (tmp_path / "calibration.npz").write_bytes(content)
        with pytest.raises(UserError, match="calibration.npz"):
            LoadedRun.calibration(tmp_path, 1)
    assert not (tmp_path / "executed").exists()


def test_train_resume_evaluate_and_report_need_no_network_and_unpickle_nothing(maze_data, tmp_path):
    config = ROOT / "tests" / "tiny_config.py"
    run = f"--workdir={tmp_path / 'run'}"
    train = ["train", f"--config={config}", f"--config.data.dir={maze_data}", run]
    commands = [
        train,
        [*train, "--config.train.steps=6"],
        ["evaluate", run, "--methods=qgf", "--episodes=1", "--envs=2", "--weights=1"],
        ["report", run],
        ["verify", str(tmp_path / "run")],
    ]
    notes, log = tmp_path / "notes", tmp_path / "log"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text("import watch\nwatch.everywhere()\n")
    more = {"PYTHONPATH": f"{hooks}:{ROOT}:{ROOT / 'tests'}", "QGF_NOTES": str(notes)}
    words = [notes, json.dumps(commands)]
    with Server() as server:
        code = server.run(words, log, call="ways_out:watched", timeout=300, **more)
    assert code == 0, log.read_text()[-2000:]
    assert "qgf_jax.envs.worker" in notes.with_suffix(".watched").read_text()  # simulators too
    assert not notes.exists(), notes.read_text()
