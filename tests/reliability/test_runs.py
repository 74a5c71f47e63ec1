"""A training run is killed, stopped, starved and doubled, and ends as an undisturbed one does."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from conftest import LONG, ROOT
from processes import Server

from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import Lines

STEPS = 1200
POINTS = (
    "rename_config.json", "compile", "validation", "log", "save", "write", "committed", "seal",
    "rename_json", "sealed", "delete", "restore",
)  # fmt: skip
MOMENTS = [(p, n) for p, n in itertools.product(POINTS, (1, 2, 3)) if p != "compile" or n == 1]
SHORT = [("rename_json", 2), ("delete", 1)]


@pytest.fixture(scope="module")
def server():
    with Server() as found:
        yield found


@pytest.fixture(scope="module")
def arguments(maze_data):
    options = {
        "data.dir": maze_data,
        "train.steps": STEPS,
        "train.steps_per_dispatch": 10,
        "train.save_every": 60,
        "train.log_every": 100,
    }
    config = ROOT / "tests" / "tiny_config.py"
    return ["train", f"--config={config}", *(f"--config.{k}={v}" for k, v in options.items())]


class Trained:
    """A run folder and how its trainer is started."""

    def __init__(self, server, arguments, workdir):
        self.server, self.workdir = server, workdir
        self.arguments = [*arguments, f"--workdir={workdir}"]
        self.log = workdir.with_suffix(".log")

    def run(self, **environment):
        return self.server.run(self.arguments, self.log, **environment)

    def start(self, **environment):
        return self.server.start(self.arguments, self.log, **environment)

    @property
    def checkpoints(self):
        return Checkpoints(self.workdir)

    def result(self):
        """All that a run leaves: digest of the state, lines of metrics without rates."""
        assert not self.checkpoints.why_invalid(STEPS)
        lines = [
            {k: v for k, v in line.items() if k != "steps_per_second"}
            for line in Lines.read(self.workdir / "metrics.jsonl").records
        ]
        return self.checkpoints.digest(STEPS), lines


@pytest.fixture(scope="module")
def undisturbed(server, arguments, tmp_path_factory):
    """The result of a run that nothing happened to, and how long it took."""
    trained = Trained(server, arguments, tmp_path_factory.mktemp("undisturbed") / "run")
    trained.run()  # compiles, for all
    again = Trained(server, arguments, trained.workdir.with_name("again"))
    started = time.perf_counter()
    assert again.run() == 0
    assert again.result() == trained.result()
    return again.result(), time.perf_counter() - started


@pytest.fixture
def trained(server, arguments, tmp_path):
    return Trained(server, arguments, tmp_path / "run")


def test_random_kills_change_nothing(trained, undisturbed, server, arguments, tmp_path):
    result, seconds = undisturbed
    rng, hits, number = random.Random(0), 0, 0
    while hits < (20 if LONG else 2):
        number += 1
        pid = trained.start()
        time.sleep(rng.uniform(0.2, 1.0) * seconds)
        os.killpg(pid, signal.SIGKILL)
        hits += server.wait(pid) == -signal.SIGKILL
        if trained.checkpoints.steps()[-1:] == [STEPS]:  # nothing is left to disturb
            assert trained.run() == 0 and trained.result() == result
            trained = Trained(server, arguments, tmp_path / f"run{number}")
    assert trained.run() == 0
    assert trained.result() == result
    leftovers = {p.name for p in (trained.workdir / "checkpoints").iterdir()}
    assert leftovers == {"seals", *map(str, trained.checkpoints.steps())}


@pytest.mark.whole
@pytest.mark.parametrize(("point", "visit"), MOMENTS if LONG else SHORT)
def test_a_crash_at_a_named_point_changes_nothing(trained, undisturbed, point, visit):
    if point in ("restore", "rename_config.json"):  # once a start
        for _ in range(visit - 1):
            trained.run(QGF_CRASH_AT="sealed:2")
        if point == "restore":
            assert trained.run(QGF_CRASH_AT="sealed:1") == 137
        visit = 1
    assert trained.run(QGF_CRASH_AT=f"{point}:{visit}") == 137
    assert trained.run() == 0
    assert trained.result() == undisturbed[0]


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("call", ["qgf_jax.cli:main", "ways_out:train_uncached"])
def test_same_config_same_bits(trained, undisturbed, threads, call):
    """Two of five processes are those of `undisturbed`, with two threads and the cache."""
    if not LONG and (call, threads) != ("qgf_jax.cli:main", "1"):
        pytest.skip("long")
    assert trained.run(call=call, NPROC=threads) == 0, trained.log.read_text()[-2000:]
    assert trained.result() == undisturbed[0]


@pytest.mark.skipif(not LONG, reason="long")
def test_a_run_moves_between_one_device_and_eight(trained, undisturbed):
    """It uses one of the eight here; what is tested is that a checkpoint does not remember."""
    eight = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    assert trained.run(QGF_CRASH_AT="sealed:2") == 137
    assert trained.run(QGF_CRASH_AT="sealed:2", XLA_FLAGS=eight, NPROC="16") == 137
    assert trained.run() == 0
    assert trained.result() == undisturbed[0]


@pytest.mark.parametrize("point", POINTS if LONG else ("write",))
def test_sigterm_at_a_named_point_saves_and_leaves_with_143(trained, undisturbed, point):
    if point == "restore":
        trained.run(QGF_CRASH_AT="sealed:2")
    visit = 1 if point in ("restore", "compile", "rename_config.json") else 2
    assert trained.run(QGF_SIGNAL_AT=f"{point}:{visit}") == 143
    said = trained.log.read_text()
    step = int(said.rsplit("saved at step ", 1)[1].split(";")[0])
    assert trained.checkpoints.steps()[-1] == step and not trained.checkpoints.why_invalid(step)
    assert "Traceback" not in said
    assert trained.run() == 0
    assert trained.result() == undisturbed[0]


@pytest.mark.parametrize("seed", range(8 if LONG else 0))
def test_signals_at_random_moments_lose_nothing(trained, undisturbed, server, seed):
    rng = random.Random(seed)
    kind = (signal.SIGTERM, signal.SIGINT)[seed % 2]
    pid = trained.start()
    time.sleep(rng.uniform(0.1, 0.9) * undisturbed[1])
    os.kill(pid, kind)
    code = server.wait(pid)
    assert code in (0, 128 + kind, -kind), trained.log.read_text()
    if code == 128 + kind and "saved at step" in (said := trained.log.read_text()):
        step = int(said.rsplit("saved at step ", 1)[1].split(";")[0])
        assert trained.checkpoints.steps()[-1] == step
    assert trained.run() == 0
    assert trained.result() == undisturbed[0]


def test_second_trainer_is_refused_by_name_and_touches_nothing(trained, server, tmp_path):
    first = trained.start()
    while not trained.checkpoints.steps():
        time.sleep(0.01)
    os.kill(first, signal.SIGSTOP)

    def contents():
        return {p: p.read_bytes() for p in trained.workdir.rglob("*") if p.is_file()}

    before = contents()
    second = Trained(server, trained.arguments[:-1], trained.workdir)
    second.log = tmp_path / "second.log"
    started = time.perf_counter()
    assert second.run() == 2
    assert time.perf_counter() - started < 2.0
    assert contents() == before
    os.kill(first, signal.SIGCONT)
    os.kill(first, signal.SIGKILL)
    server.wait(first)
    said = second.log.read_text()
    assert f"is being trained by process {first} on " in said and said.count("\n") == 1


def test_disk_full_at_twenty_levels(server, tmp_path):
    """A limit on the size of files stands in for a full disk: the same error from the same call."""
    log = tmp_path / "log"
    assert server.run([tmp_path], log, call="ways_out:meet_full_disks") == 0, log.read_text()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, where the machine lets us make one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if not LONG or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("long, and needs the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    server, arguments, undisturbed, small_disk, tmp_path
):
    trained = Trained(server, arguments, small_disk / "run")
    trained.log = tmp_path / "log"
    trained.run(QGF_CRASH_AT="sealed:2")
    filler = small_disk / "filler"
    for left in (0, 50_000, 150_000, 250_000):
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(max(0, free - left)))
        assert trained.run() in (2, 5), trained.log.read_text()
        said = trained.log.read_text().splitlines()[-1]
        assert said.startswith("qgf: error: ") and "make room" in said
        steps = trained.checkpoints.steps()
        assert steps and all(not trained.checkpoints.why_invalid(step) for step in steps)
        filler.unlink()
    assert trained.run() == 0
    assert trained.result() == undisturbed[0]


@pytest.mark.parametrize("block", ["bare", "with"])
@pytest.mark.parametrize("way", ["returns", "exits", "raises", "interrupts"])
def test_no_way_out_loses_the_last_save(server, tmp_path, way, block):
    code = server.run([way, block, tmp_path], tmp_path / "log", call="ways_out:leave")
    assert code == {"returns": 0, "exits": 0, "raises": 1, "interrupts": 1}[way]
    assert Checkpoints(tmp_path).steps() == [7] and not Checkpoints(tmp_path).why_invalid(7)


def test_an_exit_with_code_0_does_not_hide_a_save_that_failed(server, tmp_path):
    assert server.run([tmp_path], tmp_path / "log", call="ways_out:exit_after_a_bad_save") == 1
    assert not Checkpoints(tmp_path).steps()


@pytest.mark.whole
def test_ctrl_c_that_ends_the_reader_of_our_messages_too_still_saves(trained, undisturbed):
    """As in `qgf train 2>&1 | tee log`."""
    assert trained.run(QGF_SIGNAL_AT="write:2", NOBODY_READS="1") == 143
    assert trained.checkpoints.steps() and trained.run() == 0
    assert trained.result() == undisturbed[0]
