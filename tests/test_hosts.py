"""Two processes on loopback that train together, as two hosts would."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import LONG, ROOT

from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import Lines
from qgf_jax.runs.loaded import LoadedRun

ENVIRONMENT = {
    "XLA_FLAGS": re.sub(r"device_count=\d+", "device_count=2", os.environ["XLA_FLAGS"]),
    "PYTHONPATH": str(ROOT),
}


def start(workdir, data, count=1, form="pmap", second=(), **options):
    """The processes of one run; with `count` 1 a single one that has all four devices.

    `second` are further arguments of the second one.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "data.dir": data, "devices": "all", "parallel": form, "train.batch_size": 16,
        "train.check_replicas": 2, "seeds": 2, **options,
    }  # fmt: skip
    command = [sys.executable, "-m", "qgf_jax", "train", f"--workdir={workdir}"]
    command += [f"--config={ROOT}/tests/tiny_config.py"]
    command += [f"--config.{k}={v}" for k, v in options.items()]
    environment = os.environ | ENVIRONMENT
    if count == 1:
        environment["XLA_FLAGS"] = environment["XLA_FLAGS"].replace("count=2", "count=4")
    processes = []
    for i in range(count):
        hosts = [f"--hosts=127.0.0.1:{port},{count},{i}"] if count > 1 else []
        log = (workdir.parent / f"{workdir.name}-{i}.log").open("w")
        processes.append(
            subprocess.Popen(
                [*command, *hosts, *(second if i else ())],
                env=environment,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
        )
    return processes


def finish(workdir, processes):
    codes = [process.wait(timeout=240) for process in processes]
    logs = [(workdir.parent / f"{workdir.name}-{i}.log").read_text() for i in range(len(codes))]
    return codes, logs


def numbers(workdir):
    restored = LoadedRun.open(workdir)
    return restored.step, [np.asarray(x) for x in jax.tree.leaves(restored.params)]


STREAMED = {"data.mode": "streamed", "data.block": 150, "data.window": 1, "data.replace_every": 2}


@pytest.mark.whole
@pytest.mark.parametrize(
    ("form", "options"),
    [("pmap", {}), ("jit", {}), ("pmap", STREAMED), ("jit", STREAMED)] if LONG else [("pmap", {})],
)
def test_two_hosts_reach_the_parameters_of_one_with_as_many_devices(
    slices_data, tmp_path, form, options
):
    """The first alone writes; one process restores; the pieces of the data are the same ones."""
    together, alone = tmp_path / "together", tmp_path / "alone"
    codes, logs = finish(together, start(together, slices_data, 2, form, **options))
    assert codes == [0, 0], logs
    assert json.loads(logs[0].splitlines()[-1]) == {"workdir": str(together)}
    assert "workdir" not in logs[1] and "goodput" not in logs[1]
    codes, logs = finish(alone, start(alone, slices_data, 1, form, **options))
    assert codes == [0], logs
    (step, mine), (_, theirs) = numbers(together), numbers(alone)
    assert step == 4
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)  # Adam's first steps have the size of its rate
    lines = [
        [line["critic/loss"] for line in Lines.read(w / "metrics.jsonl").records]
        for w in (together, alone)
    ]
    np.testing.assert_allclose(*lines, rtol=1e-3)


DIFFERENT = {
    "config": (
        "--config.train.steps=5",
        "processes 0 and 1 do not train the same: config key train.steps is 4 and 5",
        0,
    ),
    "data": ("--config.data.dir=elsewhere", "process 1 could not begin: ", 1),
    "devices": ("--config.devices=3", "process 1 could not begin: config key devices is 3", 1),
}


@pytest.mark.parametrize("what", DIFFERENT if LONG else ["data"])
def test_processes_that_cannot_train_together_all_end_at_once(slices_data, tmp_path, what):
    """Nobody waits for one that has left, and all say why; with the second one's own arguments."""
    argument, words, shown = DIFFERENT[what]
    begun = time.monotonic()
    codes, logs = finish(
        tmp_path / "run", start(tmp_path / "run", slices_data, 2, second=[argument])
    )
    assert codes == [2, 2], logs
    assert words in logs[0], logs
    assert (words in logs[1]) == (not shown), logs
    assert not any("Traceback" in log for log in logs), logs
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "run" / "config.json").exists()  # the corrected command can have it


@pytest.mark.skipif(not LONG, reason="make reliability")
def test_a_signal_to_any_host_saves_on_all_at_the_same_step_and_both_go_on(maze_data, tmp_path):
    """SIGTERM to the second: JAX's service tells the first, which saves; then the same command again."""
    workdir = tmp_path / "run"
    options = {"train.steps": 40_000, "train.log_every": 1000, "train.save_every": 20_000}
    processes = start(workdir, maze_data, 2, **options)
    end = time.monotonic() + 200
    while not (workdir / "metrics.jsonl").exists():
        assert time.monotonic() < end and all(p.poll() is None for p in processes)
        time.sleep(0.1)
    os.kill(processes[1].pid, signal.SIGTERM)
    codes, logs = finish(workdir, processes)
    assert codes == [143, 143], logs
    (step,) = Checkpoints(workdir).steps()
    assert 1000 <= step < 40_000 and f"saved at step {step}" in logs[0]
    more = {**options, "train.steps": step + 4}
    codes, logs = finish(workdir, start(workdir, maze_data, 2, **more))
    assert codes == [0, 0], logs
    assert Checkpoints(workdir).steps()[-1] == step + 4
