"""A checkpoint is the same on other devices and in later versions; an evaluation goes on after a kill.

`python tests/reliability/test_portable.py` makes tests/data/golden.zip, the run folder that every later
version has to read. It is made once and kept.
"""

import contextlib
import json
import os
import signal
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import LONG, ROOT
from processes import Server

from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import Lines

GOLDEN = ROOT / "tests" / "data" / "golden.zip"


@pytest.fixture(scope="module")
def server():
    with Server() as found:
        yield found


@pytest.fixture
def golden(tmp_path):
    """The run folder in the file, sound by its own seal."""
    with zipfile.ZipFile(GOLDEN) as file:
        file.extractall(tmp_path)
    return tmp_path / "golden"


def actions(workdir):
    import jax

    from qgf_jax import load_policy

    obs = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    return np.asarray(load_policy(workdir, "qgf", 1.0)(obs, jax.random.key(0)))


def test_a_run_of_the_first_version_is_restored_and_acts_as_it_did(golden, tmp_path):
    from qgf_jax.runs.loaded import LoadedRun

    restored = LoadedRun.open(golden)
    checkpoints = Checkpoints(golden, identity=restored.run.identity)
    assert checkpoints.steps() == [4] and not checkpoints.why_invalid(4)
    # To rounding: another version of XLA may add in another order, and the features of time are fast.
    np.testing.assert_allclose(actions(golden), np.load(golden / "actions.npy"), atol=5e-3)


def test_a_step_moves_between_one_device_and_eight(golden, server, tmp_path):
    eight = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "NPROC": "16"}
    log = tmp_path / "log"
    for source, target, devices in (("golden", "eight", 8), ("eight", "one", 1)):
        words = [tmp_path / source, tmp_path / target, devices]
        more = eight if devices == 8 else {}
        code = server.run(words, log, call="ways_out:move", **more)
        assert code == 0, log.read_text()[-2000:]
    found = {name: Checkpoints(tmp_path / name).digest(4) for name in ("golden", "eight", "one")}
    assert len(set(found.values())) == 1, found


def lines_of(workdir):
    lines = [{k: v for k, v in x.items() if k != "seconds"} for x in Lines.read(workdir).records]
    return {tuple(line[k] for k in ("method", "episode", "seed")): line for line in lines}, lines


@pytest.mark.whole
def test_an_evaluation_that_is_killed_plays_only_what_is_missing(golden, server, tmp_path):
    words = ["evaluate", f"--workdir={golden}", "--methods=reference,qgf", "--weights=1"]
    words += ["--episodes=4", "--selection_episodes=4", "--envs=2", "--workers=1"]
    log, path = tmp_path / "log", golden / "episodes.jsonl"
    assert server.run(words, log) == 0, log.read_text()[-2000:]
    expected, lines = lines_of(path)
    assert len(lines) == len(expected) == 16
    for kills in range(6 if LONG else 1):
        path.unlink()
        pid, end = server.start(words, log), time.monotonic() + 60.0
        while not path.exists() or path.read_bytes().count(b"\n") < 3 + 2 * kills:
            assert time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.002)
        os.killpg(pid, signal.SIGKILL)
        server.wait(pid)
        before = path.read_bytes()
        kept = before[: before.rfind(b"\n") + 1]  # what is whole
        assert server.run(words, log) == 0
        assert path.read_bytes().startswith(kept)
        found, lines = lines_of(path)
        assert len(lines) == 16 and found == expected


def make():
    """Trains the run and packs it."""
    import tempfile

    from conftest import MAZE, tiny

    from qgf_jax.data.collect import collect
    from qgf_jax.training.loop import pretrain

    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        collect(MAZE, 6, Path("data"), workers=2)
        workdir = pretrain(tiny(**{"data.dir": "data", "train.keep": 1}), Path("golden"))
        np.save(workdir / "actions.npy", actions(workdir))
        config = workdir / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"git_commit": ""}, indent=1))
        with zipfile.ZipFile(GOLDEN, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(workdir.rglob("*")):
                if path.is_file() and path.name not in ("LOCK",) and "tensorboard" not in str(path):
                    file.write(path)


if __name__ == "__main__":
    make()
