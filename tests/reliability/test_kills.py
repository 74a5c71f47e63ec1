"""Every command is killed, and the same command again ends as if nothing had been."""

import json
import os
import pickle
import random
import shutil
import signal
import time
import zipfile

import numpy as np
import pytest
from conftest import LONG, MAZE, ROOT
from PIL import Image
from processes import Server
from public_agent import public_agent

from qgf_jax.data.converted import Manifest
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import Lines

CONFIG = f"--config={ROOT / 'tests' / 'tiny_config.py'}"
COUNTS = ("--episodes=2", "--selection_episodes=2", "--envs=2", "--workers=1")


@pytest.fixture(scope="module")
def server():
    with Server() as found:
        yield found


class Command:
    """A command line, what it finds when it begins, and what it leaves, but for times."""

    again = (0,)
    """Exit codes of the same command when it had ended already."""

    def __init__(self, source):
        self.source = source

    def prepare(self, place):
        shutil.copytree(self.source, place)


class Collect(Command):
    points = ("assembled:1", "named:1", "named:2")
    again = (0, 2)

    def prepare(self, place):
        place.mkdir()

    def words(self, place):
        return ("collect", f"--env={MAZE}", "--episodes=3", f"--out={place}", "--workers=2")

    def result(self, place):
        found = {}
        for path in sorted(place.iterdir()):
            with np.load(path, allow_pickle=False) as file:
                found[path.name] = {key: file[key].tobytes() for key in file.files}
        return found


class Convert(Collect):
    points = ("rename_manifest.json:1", "converted:1", "rename_manifest.json:2", "converted:2")

    def words(self, place):
        return ("convert", self.source / f"{MAZE}.npz", f"--out={place}")

    def result(self, place):
        assert not any(Manifest.read(folder).why_invalid() for folder in place.iterdir())
        return {folder.name: Manifest.read(folder).record for folder in place.iterdir()}


class Import(Command):
    points = ("rename_config.json:1", "write:1", "committed:1", "seal:1", "rename_json:1")

    def prepare(self, place):
        place.mkdir()
        (place / "params.pkl").write_bytes(pickle.dumps(public_agent()))

    def words(self, place):
        more = ("--config.data.standardize=false", f"--workdir={place / 'run'}")
        return ("import-official", place / "params.pkl", CONFIG, *more)

    def result(self, place):
        found = Checkpoints(place / "run")
        names = {p.name for p in found.root.iterdir()}
        return [
            (step, found.why_invalid(step), found.digest(step)) for step in found.steps()
        ], names


class Evaluate(Command):
    points = ("log:1", "log:5")

    def words(self, place):
        return ("evaluate", f"--workdir={place}", "--methods=reference,qgf", "--weights=1", *COUNTS)

    def result(self, place):
        lines = [
            {k: v for k, v in line.items() if k != "seconds"}
            for line in Lines.read(place / "episodes.jsonl").records
        ]
        return sorted(map(json.dumps, lines))


class Report(Command):
    points = ("rename_summary.json:1", "rename_table.md:1", "rename_index.html:1")

    def words(self, place):
        return ("report", f"--workdir={place}")

    def result(self, place):
        paths = [p for p in (place / "report").iterdir() if not p.name.startswith(".")]
        for path in paths:
            if path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
        texts = {p.name: p.read_text() for p in paths if p.suffix in (".md", ".csv")}
        return texts, {path.name for path in paths}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("golden")
    with zipfile.ZipFile(ROOT / "tests" / "data" / "golden.zip") as file:
        file.extractall(place)
    return place / "golden"


@pytest.fixture(scope="module")
def evaluated(trained, server, tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(trained, place)
    log = place.with_suffix(".log")
    assert server.run(Evaluate(trained).words(place), log) == 0, log.read_text()
    return place


@pytest.fixture(params=["collect", "convert", "import", "evaluate", "report"], scope="module")
def command(request, maze_data):
    if not LONG and request.param in ("import", "evaluate", "report"):
        pytest.skip("long")  # what these write is written by `qgf train` too, see test_runs.py
    kinds = {"collect": (Collect, None), "convert": (Convert, "maze_data"),
             "import": (Import, None), "evaluate": (Evaluate, "trained"),
             "report": (Report, "evaluated")}  # fmt: skip
    kind, source = kinds[request.param]
    return kind(request.getfixturevalue(source) if source else None)


@pytest.fixture(scope="module")
def undisturbed(command, server, tmp_path_factory):
    """What it leaves, and how long it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in ("compiles", "run") if LONG else ("run",):
        command.prepare(folder / name)
        started = time.perf_counter()
        code = server.run(command.words(folder / name), folder / "log")
        assert code == 0, (folder / "log").read_text()
    return command.result(folder / "run"), time.perf_counter() - started


def finish(command, server, place, log):
    code = server.run(command.words(place), log)
    assert code in command.again, log.read_text()
    assert "Traceback" not in log.read_text()


def test_killed_at_a_named_point(command, undisturbed, server, tmp_path):
    for point in command.points if LONG else command.points[1:2]:
        place, log = tmp_path / point, tmp_path / f"{point}.log"
        command.prepare(place)
        assert server.run(command.words(place), log, QGF_CRASH_AT=point) == 137, point
        finish(command, server, place, log)
        assert command.result(place) == undisturbed[0], point


@pytest.mark.skipif(not LONG, reason="long")
def test_killed_at_ten_random_moments(command, undisturbed, server, tmp_path):
    """The process alone, as `kill -9` does; those that it has started have to end by themselves."""
    rng, hits, number = random.Random(0), 0, 0
    while hits < 10:
        number += 1
        place, log = tmp_path / str(number), tmp_path / f"{number}.log"
        command.prepare(place)
        pid = server.start(command.words(place), log)
        time.sleep(rng.uniform(0.05, 1.0) * undisturbed[1])
        os.kill(pid, signal.SIGKILL)
        hits += server.wait(pid) == -signal.SIGKILL
        wait_for_group(pid)
        finish(command, server, place, log)
        assert command.result(place) == undisturbed[0], number


def wait_for_group(pid):
    """Until no process is left of those that `pid` has started."""
    end = time.monotonic() + 10.0
    while time.monotonic() < end:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    pytest.fail("a process has outlived the one that started it by ten seconds")
