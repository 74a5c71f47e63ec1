"""The engine `slurm` and the process of its jobs, with programs in the place of Slurm's."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from engines import all_of

from qgf_jax.errors import UserError
from qgf_jax.runtime import children
from qgf_jax.sweep import Needs
from qgf_jax.sweep.engines import Task, engine_with, slurm

FAKE = """
import os, pathlib, signal, subprocess, sys
home = pathlib.Path(os.environ["FAKE_SLURM"])
program, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with (home / "asked").open("a") as file:
    file.write(" ".join([program, *words]) + chr(10))
if (home / f"{program}.error").exists():
    sys.exit((home / f"{program}.error").read_text())
flags = dict(word.split("=", 1) for word in words if "=" in word)
jobs = home / "jobs"
if program == "sbatch":
    number = str(len([*home.glob("array*")]) + 1)
    (home / f"array{number}").touch()
    jobs.mkdir(exist_ok=True)
    print(number)
    for index in range(int(flags["--array"].removeprefix("0-")) + 1):
        if (home / "full").exists():
            (jobs / f"{number}_{index}").write_text("PENDING")
            continue
        told = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_JOB_ID": number}
        null = subprocess.DEVNULL
        job = subprocess.Popen(
            ["sh", words[-1]], env=os.environ | told, stdin=null, stdout=null, stderr=null,
            start_new_session=True,
        )
        (jobs / f"{number}_{index}").write_text(f"RUNNING {job.pid}")
if program == "squeue":
    for job in jobs.iterdir():
        print(f"{job.name}|{job.read_text().split()[0]}|None")
if program == "scancel":
    for job in jobs.iterdir():
        state, *pids = job.read_text().split()
        if "--state=PENDING" in words and state == "PENDING":
            job.write_text("CANCELLED")
        if "--batch" in words and state == "RUNNING":
            os.kill(int(pids[0]), signal.SIGTERM)
"""
QUICK = [sys.executable, "-S", "-c"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder with what the programs were asked; they are on PATH, and the engine asks at once."""
    home = tmp_path / "slurm"
    home.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        (home / name).write_text(f"#!{sys.executable} -S\n{FAKE}")
        (home / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    for name in ("_LOOK", "_ASK"):
        monkeypatch.setattr(slurm, name, 0.1)
    return home


def task(folder, name, code="", **needs):
    needs = Needs(**{"devices": 0, "memory_gib": 0.0, **needs})
    return Task(name, (*QUICK, code), folder, folder / "runs" / name / "job.log", needs)


def engine(**options):
    return engine_with("slurm", {k: str(v) for k, v in options.items()})()


def asked(home, program):
    return [x for x in (home / "asked").read_text().splitlines() if x.split()[0] == program]


def test_tasks_of_equal_needs_are_one_array_and_their_exit_codes_come_back(cluster, tmp_path):
    odd = 'it\'s $HOME; `a`\n"b"'
    tasks = [
        task(tmp_path, odd, f"import sys; print({odd!r}); sys.exit(3)"),
        task(tmp_path, "large", "import os; os.kill(os.getpid(), 9)", cores=4),
        task(tmp_path, "fine", "import os; assert os.environ['SLURM_ARRAY_TASK_ID'] == '1'"),
    ]
    one = engine()
    assert {each.name for each in one.start(tasks)} == {odd, "large", "fine"}
    assert all_of(one, 3, seconds=60) == {odd: 3, "large": 137, "fine": 0}
    first, second = asked(cluster, "sbatch")
    assert "--array=0-1 " in first and "--cpus-per-task=1 " in first
    assert "--array=0-0 " in second and "--cpus-per-task=4 " in second
    assert tasks[0].log.read_text() == odd + "\n"


def test_needs_and_options_are_flags_of_sbatch(cluster, tmp_path):
    given = {
        "partition": "gpu",
        "account": "me",
        "gres": "gpu:a100",
        "sbatch": "--nice=3 --x='a b'",
    }
    one = engine(**given, notice=90, at_once=1)
    needs = {"devices": 2, "cores": 3, "memory_gib": 1.5, "hours": 0.5}
    tasks = [task(tmp_path, name, **needs) for name in "ab"]
    assert one.start(tasks) == tasks[:1] and one.start(tasks[1:]) == []
    (line,) = asked(cluster, "sbatch")
    for flag in (
        "--nodes=1 --ntasks=1 --cpus-per-task=3 --requeue --mem=1536M --gres=gpu:a100:2 --time=30",
        "--signal=B:TERM@90 --partition=gpu --account=me --nice=3 --x=a b",
    ):
        assert flag in line, line
    all_of(one, 1, seconds=60)
    assert one.start(tasks[1:]) == tasks[1:]
    all_of(one, 1, seconds=60)
    one = engine(gres="none", time="0:01:00")
    one.start(tasks[:1])
    assert "--gres" not in (line := asked(cluster, "sbatch")[-1])
    assert "--time=1 --signal=B:TERM@30" in line, "it would come at the start"
    all_of(one, 1, seconds=60)


def test_what_slurm_refuses(cluster, tmp_path):
    refusal = cluster / "sbatch.error"
    refusal.write_text("sbatch: error: invalid partition specified: gpu\nsbatch: error: no")
    tasks = [task(tmp_path, "a"), task(tmp_path, "b"), task(tmp_path, "c", cores=99)]
    with pytest.raises(UserError, match="^sbatch: invalid partition specified: gpu"):
        engine().start(tasks)
    refusal.unlink()
    one = engine()
    assert one.start(tasks[:1]) == tasks[:1]
    refusal.write_text("sbatch: error: no such node")
    assert one.start(tasks[1:]) == [tasks[2]], "b is offered again"
    assert all_of(one, 2, seconds=60) == {"a": 0, "c": 2}
    assert tasks[2].log.read_text() == "qgf: error: sbatch: no such node\n"
    refusal.unlink()
    assert one.start(tasks[1:2]) == [], "not at once"


def test_a_part_of_a_device_is_for_the_site_to_name(cluster, tmp_path):
    quarter = task(tmp_path, "a", devices=0.25)
    one = engine()
    assert one.start([quarter]) == [quarter] and all_of(one, 1) == {"a": 2}
    assert "--gres counts whole devices" in quarter.log.read_text()
    assert not (cluster / "asked").exists()
    one = engine(gres="none", sbatch="--gres=shard:1")
    assert one.start([quarter]) == [quarter] and all_of(one, 1, seconds=60) == {"a": 0}
    (line,) = asked(cluster, "sbatch")
    assert "--gres=shard:1" in line


def test_a_job_without_an_exit_code_is_lost_when_slurm_says_so(cluster, tmp_path):
    (cluster / "full").touch()
    one, tasks = engine(), [task(tmp_path, name) for name in "abc"]
    one.start(tasks)
    (cluster / "squeue.error").write_text("squeue: error: timed out")
    for _ in range(4):
        time.sleep(0.11)
        assert one.ended() == [], "the controller may be away for a while"
    (cluster / "squeue.error").unlink()
    (cluster / "jobs" / "1_0").write_text("NODE_FAIL")
    (cluster / "jobs" / "1_1").unlink()
    assert all_of(one, 2, seconds=60) == {"a": 101, "b": 101}
    assert "1_0 ended without an exit code: NODE_FAIL" in tasks[0].log.read_text()
    assert one.ended() == []


SAVES = textwrap.dedent("""
    import signal, sys, time
    from pathlib import Path
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    Path(sys.argv[1]).touch()
    while not told:
        time.sleep(0.02)
    time.sleep(0.5)
    Path(sys.argv[1]).write_text(str(len(told)))
    sys.exit(143)
""")


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.02)


def test_a_sweep_that_stops_takes_back_what_waits_and_lets_the_rest_save(cluster, tmp_path):
    mark = tmp_path / "mark"
    runs = task(tmp_path, "runs")
    runs = runs._replace(command=(*QUICK, SAVES, str(mark)))
    one = engine()
    one.start([runs])
    wait_for(mark)
    (cluster / "full").touch()
    one.start([task(tmp_path, "waits")])
    one.stop()
    assert all_of(one, 2, seconds=60) == {"runs": 143, "waits": 101}
    assert mark.read_text() == "1"


@pytest.mark.parametrize("stopped", [False, True], ids=["preempted", "stopped"])
def test_a_preempted_job_saves_once_and_is_queued_again(cluster, tmp_path, stopped):
    """SIGTERM twice, to the whole group: the command gets one."""
    folder, mark = tmp_path / "arrays" / "1", tmp_path / "mark"
    folder.mkdir(parents=True)
    words = [str(folder), "4", str(tmp_path), str(tmp_path / "log"), *QUICK, SAVES, str(mark)]
    told = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4"}
    job = subprocess.Popen(
        children.command("qgf_jax.sweep.slurm_job", *words),
        env=os.environ | told,
        start_new_session=True,
    )
    wait_for(mark)
    if stopped:
        (folder.parent / "stop").touch()
    os.killpg(job.pid, signal.SIGTERM)
    time.sleep(0.3)
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(60) == 143
    assert mark.read_text() == "1"
    assert (folder / "4.code").exists() is stopped
    assert (cluster / "asked").exists() is not stopped
    if not stopped:
        assert asked(cluster, "scontrol") == ["scontrol requeue 7_4"]


def test_without_slurm_and_with_wrong_flags_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no program sbatch: start the sweep where"):
        engine()
    for text in ("4h", "1:60:00", "0:00:00", "10"):
        with pytest.raises(UserError, match="--time is .*; it must be a time H:MM:SS"):
            engine(time=text)
    with pytest.raises(UserError, match="did you mean '--partition'"):
        engine(partitoin="gpu")
