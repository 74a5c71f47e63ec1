"""Sweeps: jobs as data, what is left of them, engines, and what becomes of jobs that end badly."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT, command
from engines import all_of

from qgf_jax.errors import Stopped, UserError
from qgf_jax.runs.locks import JOB
from qgf_jax.runtime import children
from qgf_jax.sweep import Job, Needs, runner
from qgf_jax.sweep.engines import Task, engine_with
from qgf_jax.sweep.estimate import Estimate
from qgf_jax.sweep.launch import UnfinishedError, launch
from qgf_jax.sweep.plan import Plan, Planned, checked, chosen, read_file
from qgf_jax.sweep.state import Record, State
from qgf_jax.sweep.view import estimates_table, states_table

CUBE = "experiments/configs/ogbench.py:cube_single_small"
TINY = str(ROOT / "tests" / "tiny_config.py")


def planned_in(folder, *jobs, steps=2):
    """A plan of jobs whose configs nobody reads."""
    folder.mkdir(exist_ok=True)
    found = Plan(folder, {job.name: Planned(job, f"id of {job.name}", steps) for job in jobs})
    found.write()
    return found


def some(name, **options):
    return Job(name=name, config="c.py", **options)


# Jobs.


def test_names_are_stable_and_say_what_a_job_is():
    jobs = Job.grid(
        {"env": ["a:b-v0"], "policy.alpha": [1, 0.5]},
        config="x/ogbench.py:cube",
        overrides={"data.standardize": True, "networks.policy_hidden": (8, 8)},
    )
    name = "cube_standardize=true_env=a-b-v0_policy_hidden=8-8_alpha=1"
    assert [job.name for job in jobs] == [name, name[:-1] + "0.5"]
    assert Job(config="x/smoke.py").name == "smoke"
    both = Job(config="c.py", overrides={"policy.tau": 1, "critics.td.tau": 2})
    assert both.name == "c_critics.td.tau=2_policy.tau=1"
    assert Job(source="a", add="td").name == "a_td"
    named = Job.grid({"seed": range(2)}, config="c.py", name="best")
    assert [job.name for job in named] == ["best_seed=0", "best_seed=1"]
    assert Job.of(json.loads(json.dumps(jobs[0].record))) == jobs[0]


def test_commands_are_those_that_one_would_type():
    needs = Needs(cores=3)
    evaluations = ["--methods=qgf --episodes=2", ("--methods=best_of", "--workers=1")]
    job = some("j", overrides={"seed": 1}, evaluations=evaluations, needs=needs)
    train, first, second = (stage.words for stage in job.stages(Path("r")))
    assert train == (
        "train",
        "--config=c.py",
        "--config.seed=1",
        "--workdir=r/j",
        "--cpu_threads=3",
    )
    assert first[:4] == ("evaluate", "--workdir=r/j", "--methods=qgf", "--episodes=2")
    assert first[4:] == ("--cpu_threads=3", "--workers=3")
    assert second[2:] == ("--methods=best_of", "--workers=1", "--cpu_threads=3")
    added = Job(source="j", add="td").stages(Path("r"))[0].words
    assert added[1:4] == ("--from=r/j", "--add=td", "--workdir=r/j_td")
    (played,) = Job(source="runs/old", evaluations=[["--episodes=1"]], name="p").stages(Path("r"))
    assert played.words[1:4] == ("--workdir=runs/old", "--out=r/p", "--episodes=1")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "a/b", "config": "c.py"}, "a name is that of a folder"),
        ({"name": "sweep.json", "config": "c.py"}, "a name is that of a folder"),
        ({"name": "a"}, "give a config, or the source"),
        ({"config": "c.py", "source": "b"}, "and not both"),
        ({"config": "c.py", "add": "td"}, "add goes with source"),
        ({"source": "b"}, "trains nothing"),
        ({"config": "c.py", "evaluations": ["--out=x"]}, "--out=x follows from"),
    ],
)
def test_a_job_that_means_nothing_is_one_line(options, said):
    with pytest.raises(UserError, match=said):
        Job(**options)


def test_needs_are_read_and_bounded():
    assert Needs.parse("devices=0,memory_gib=1.5") == Needs(devices=0, memory_gib=1.5)
    for text, said in (
        ("core=1", "did you mean 'cores'"),
        ("cores=0", "it must be"),
        ("hours", "it must be"),
    ):
        with pytest.raises(UserError, match=said):
            Needs.parse(text)


def test_equal_jobs_are_one_and_others_of_a_name_are_refused():
    assert len(checked([some("a"), some("b"), some("a")])) == 2
    with pytest.raises(UserError, match="two jobs are called 'a'"):
        checked([some("a"), some("a", overrides={"seed": 1})])
    with pytest.raises(
        UserError, match="unknown job, for which 'b' waits, 'aa': did you mean 'ab'"
    ):
        checked([some("ab"), some("b", after=["aa"])])
    with pytest.raises(UserError, match="wait for each other: "):
        checked([some("a", after=["b"]), some("b", after=["c"]), some("c", after=["a"])])


def test_a_file_of_jobs(tmp_path):
    path = tmp_path / "s.py"
    path.write_text(
        "from qgf_jax.sweep import Job\ndef jobs():\n    return Job.grid({'seed': [1]}, config='c.py')"
    )
    assert [job.name for job in read_file(path)] == ["c_seed=1"]
    for text, said in (
        ("def jobs():\n    return [1 / 0]", "s.py, line 2: ZeroDivisionError"),
        ("def jobs():\n    return ['x']", "gave a str, which is no Job"),
        ("def jobs():\n    return []", "gave no job"),
        ("", "has no function jobs"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            read_file(path)


def test_a_plan_reads_configs_once_but_for_the_seed(tmp_path, monkeypatch):
    from qgf_jax import config as configs

    read, load = [], configs.load
    monkeypatch.setattr(configs, "load", lambda *given: read.append(given) or load(*given))
    jobs = Job.grid({"seed": range(4), "data.discount": [0.9, 0.99]}, config=TINY)
    found, known = Plan.with_configs(jobs, tmp_path)
    assert len(read) == 2
    assert len({one.identity for one in found.jobs.values()}) == 8
    assert {(c["seed"], c["data"]["discount"]) for c in known.values()} == {
        (seed, discount) for seed in range(4) for discount in (0.9, 0.99)
    }
    longest = Job(config=TINY, overrides={"train.steps": 8})
    (longer,) = Plan.with_configs([longest], tmp_path)[0].jobs.values()
    (first,) = Plan.with_configs([Job(config=TINY)], tmp_path)[0].jobs.values()
    assert (longer.identity, longer.steps, first.steps) == (first.identity, 8, 4)
    with pytest.raises(UserError, match="job 'tiny_config_seed=-1': config key seed is -1"):
        Plan.with_configs([Job(config=TINY, overrides={"seed": -1})], tmp_path)


def test_a_folder_keeps_the_jobs_of_all_its_sweeps(tmp_path):
    planned_in(tmp_path, some("a"), some("b"))
    planned_in(tmp_path, some("b", overrides={"seed": 1}), some("c"))
    jobs = Plan.read(tmp_path).jobs
    assert [*jobs] == ["a", "b", "c"] and jobs["b"].job.overrides == (("seed", "1"),)
    (tmp_path / "sweep.json").write_text('{"jobs": [1]}')
    with pytest.raises(UserError, match="was altered"):
        Plan.read(tmp_path)
    with pytest.raises(UserError, match="holds no sweep"):
        Plan.read(tmp_path / "a")


# What is left of a job.


def finish(one, folder, *, step=2, lines=3):
    """Makes a job's folder as it is when all of it is done."""
    workdir = folder / one.name
    seals = workdir / "checkpoints" / "seals"
    seals.mkdir(parents=True, exist_ok=True)
    (seals / f"{step}.json").write_text("{}")
    (workdir / "config.json").write_text(json.dumps({"config": {"train": {"steps": step}}}))
    line = {"step": step, "steps_per_second": 2.0, "policy/loss": 0.5, "critic/loss": "nan"}
    (workdir / "metrics.jsonl").write_text(f'{{"step": 1}}\n{json.dumps(line)}\n{{"torn')
    (workdir / "episodes.jsonl").write_text("{}\n" * lines)
    record = Record({}, {})
    for stage in one.stages(folder):
        record = record.with_done(one, folder, stage)
    record.write(workdir)


def kinds(one, folder):
    return [s.kind for s in Record.read(folder / one.name).lacks(one, folder)]


def test_a_job_is_done_while_what_it_made_is_there(tmp_path):
    job = some("a", evaluations=["--episodes=1", "--episodes=2"])
    (one,) = planned_in(tmp_path, job).jobs.values()
    everything = ["train", "evaluate", "evaluate"]
    assert kinds(one, tmp_path) == everything
    finish(one, tmp_path)
    episodes = tmp_path / "a" / "episodes.jsonl"
    assert kinds(one, tmp_path) == []
    episodes.write_text("{}\n" * 4)  # somebody has played more
    assert kinds(one, tmp_path) == []
    episodes.write_text("{}\n" * 2)
    assert kinds(one, tmp_path) == everything[1:]
    finish(one, tmp_path)
    more = one._replace(job=some("a", evaluations=["--episodes=2", "--episodes=3"]))
    (left,) = Record.read(tmp_path / "a").lacks(more, tmp_path)
    assert left.flags == "--episodes=3"
    assert kinds(one._replace(identity="another config"), tmp_path) == everything
    assert kinds(one._replace(steps=3), tmp_path) == everything
    (tmp_path / "a/checkpoints/seals/3.json").write_text("{}")
    assert kinds(one, tmp_path) == everything, "trained on by hand: what was played is of step 2"
    train = one.stages(tmp_path)[0]
    Record.read(tmp_path / "a").with_done(one, tmp_path, train).write(tmp_path / "a")
    assert kinds(one, tmp_path) == everything[1:], "and now of a step before"
    (tmp_path / "a/job.json").write_text("{")
    assert kinds(one, tmp_path) == everything


def test_states_say_where_each_job_is(tmp_path):
    found = planned_in(tmp_path, *map(some, ("done", "failed", "stopped", "begun", "waiting")))
    for name, one in found.jobs.items():
        if name != "waiting":
            finish(one, tmp_path, step=2 if name == "done" else 1)
    left = {name: Record({}, {}) for name in ("failed", "stopped", "begun")}
    from qgf_jax.sweep.state import Failure

    left["failed"] = Record({}, {}, Failure(2, "no such file", "here"))
    for name, record in left.items():
        record.write(tmp_path / name)
    with JOB.lock(tmp_path / "begun"):
        states = {one.name: one for one in State.of_jobs(Plan.read(tmp_path))}
    assert [one.word for one in states.values()] == [
        "done", "failed", "stopped", "running", "waiting",
    ]  # fmt: skip
    begun = states["begun"]
    assert (begun.step, begun.steps, begun.rate, begun.seconds_left) == (1, 2, 2.0, 0.5)
    assert begun.losses == {"policy": 0.5} and begun.host == os.uname().nodename
    short = states_table([*states.values()], begun=True)
    assert [line.split(" ")[0] for line in short.splitlines()[1:-1]] == [
        "failed",
        "stopped",
        "begun",
    ]
    table = states_table([*states.values()])
    assert "no such file" in table
    assert table.endswith("5 jobs: 1 done, 1 running, 1 failed, 1 stopped, 1 waiting")


def test_hundreds_of_runs_are_scanned_in_no_time_and_without_jax(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # what the test writes may be lost
    found = planned_in(tmp_path, *(some(f"j{i}", evaluations=["-x"]) for i in range(200)))
    for one in found.jobs.values():
        finish(one, tmp_path, lines=100)
    begun = time.process_time()
    assert {one.word for one in State.of_jobs(found)} == {"done"}
    assert time.process_time() - begun < 0.5  # 2,000 in 5 s
    code = (
        "import sys; from qgf_jax.cli import main\n"
        f"main(['sweep', 'status', {str(tmp_path)!r}])\n"
        "assert not {'jax', 'orbax', 'flax'} & sys.modules.keys()"
    )
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=path)
    assert capfd.readouterr().out.endswith("200 jobs: 200 done\n")


def test_hours_follow_from_a_run_of_the_same_shape(tmp_path):
    jobs = [Job(config=TINY, name=f"s{i}", overrides={"seed": i}) for i in (0, 1)]
    jobs.append(Job(config=TINY, name="wide", overrides={"networks.policy_hidden": (16,)}))
    jobs.append(Job(source="s0", add="td"))
    jobs.append(Job(source="s0", name="played", evaluations=["--episodes=1"]))
    found, configs = Plan.with_configs(jobs, tmp_path)
    rate = {"s0": 2.0}
    states = [
        State(name, "waiting", step=4 if name in rate else 0, steps=one.steps, rate=rate.get(name))
        for name, one in found.jobs.items()
    ]
    hours = [one.hours for one in Estimate.of_jobs(found, configs, states)]
    assert hours == [0.0, 4 / 2 / 3600, None, None, 0.0]
    workdir = tmp_path / "played"  # whose config is a copy of its source's
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps({"config": {"train": {"steps": 4}}}))
    assert State.read(found.jobs["played"], tmp_path).steps == 0
    table = estimates_table(Estimate.of_jobs(found, configs, states))
    assert "without 2 jobs of unknown hours" in table


# One job at work: its commands are replaced by small programs.

FAKE = """
import json, os, signal, sys, time
from pathlib import Path
kind, *flags = sys.argv[1:]
said = dict(flag.lstrip("-").split("=", 1) for flag in flags if "=" in flag)
workdir = Path(said.get("workdir"))
with (workdir.parent / "played").open("a") as file:
    file.write(f"{kind} {workdir.name}\\n")
what = said.get("config.seed", "0") if kind == "train" else "0"
if what == "2":
    print("step 1\\nqgf: error: the data are gone: look\\nbye", file=sys.stderr)
    sys.exit(2)
if what == "9" and not (workdir / "tried").exists():
    (workdir / "tried").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if what == "60":
    (workdir / "begin").write_text(str(os.getpid()))
    (workdir / "begin").rename(workdir / "begun")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    time.sleep(60)
if kind == "train":
    (workdir / "checkpoints" / "seals").mkdir(parents=True)
    (workdir / "checkpoints" / "seals" / "2.json").write_text("{}")
else:
    (workdir / "episodes.jsonl").open("a").write("{}\\n")
"""


@pytest.fixture
def fakes(monkeypatch):
    """`qgf train` and `qgf evaluate` as programs that take no time; the seed says what happens."""
    words = lambda module, *words: [sys.executable, "-S", "-c", FAKE, *words]
    monkeypatch.setattr(children, "command", words)


def seeded(name, seed, **more):
    return some(name, overrides={"seed": seed}, **more)


def played(folder):
    path = folder / "played"
    return path.read_text().splitlines() if path.exists() else []


def test_a_job_runs_what_it_lacks_and_no_more(tmp_path, fakes):
    job = seeded("a", 0, evaluations=["--episodes=1", "--episodes=2"])
    planned_in(tmp_path, job)
    assert runner.run_job(tmp_path, "a") == 0
    assert played(tmp_path) == ["train a", "evaluate a", "evaluate a"]
    assert runner.run_job(tmp_path, "a") == 0 and len(played(tmp_path)) == 3
    (tmp_path / "a" / "episodes.jsonl").unlink()
    assert runner.run_job(tmp_path, "a") == 0
    assert played(tmp_path)[3:] == ["evaluate a", "evaluate a"]
    assert "qgf train --config=c.py --config.seed=0" in (tmp_path / "a" / "job.log").read_text()
    with pytest.raises(UserError, match="unknown job 'b'"):
        runner.run_job(tmp_path, "b")


def test_a_job_that_fails_says_its_last_line(tmp_path, fakes):
    (one,) = planned_in(tmp_path, seeded("a", 2, evaluations=["-x"])).jobs.values()
    assert runner.run_job(tmp_path, "a") == 2
    failure = Record.read(tmp_path / "a").failure
    assert (failure.code, failure.line) == (2, "the data are gone: look")
    assert played(tmp_path) == ["train a"]
    assert State.read(one, tmp_path).word == "failed"


def test_why_a_job_failed_is_what_was_said_last(tmp_path):
    (tmp_path / "job.log").write_text("step 1\nqgf: error: no sweep here\n")
    assert runner.failure_of(tmp_path, 2) == "no sweep here"
    assert runner.failure_of(tmp_path, 137) == "killed by signal 9"
    assert runner.failure_of(tmp_path / "none", 1) == "exit code 1"


def test_a_job_that_is_worked_on_is_left_alone(tmp_path, fakes, monkeypatch):
    planned_in(tmp_path, seeded("a", 0))
    monkeypatch.setattr(runner, "_PATIENCE", 0.1)
    with JOB.lock(tmp_path / "a"):
        assert runner.run_job(tmp_path, "a") == runner.ELSEWHERE
    assert played(tmp_path) == []


def wait_for(path):
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.01)


def test_a_cancelled_job_ends_its_command_and_goes_on_later(tmp_path, fakes):
    (one,) = planned_in(tmp_path, seeded("a", 60)).jobs.values()
    codes = []
    thread = threading.Thread(target=lambda: codes.append(runner.run_job(tmp_path, "a")))
    thread.start()
    wait_for(tmp_path / "a" / "begun")
    assert State.read(one, tmp_path).word == "running"
    assert command("sweep", "cancel", str(tmp_path)) == 0
    thread.join(20)
    assert codes == [128 + signal.SIGTERM]
    assert Record.read(tmp_path / "a").failure is None, "nothing went wrong"
    assert State.read(one, tmp_path).word == "waiting", "it has no run yet"
    assert runner.run_job(tmp_path, "a") == 128 + signal.SIGTERM, "until a sweep begins again"
    runner.Cancellation(tmp_path).withdraw()
    assert not runner.Cancellation(tmp_path).wanted


def test_a_command_keeps_the_lock_of_a_runner_that_was_killed(tmp_path, fakes):
    planned_in(tmp_path, seeded("a", 60))
    workdir = tmp_path / "a"
    code = (
        "import sys; from pathlib import Path; from qgf_jax.runtime import children\n"
        "from qgf_jax.sweep import runner\n"
        f"children.command = lambda _, *words: {[sys.executable, '-S', '-c', FAKE]!r} + [*words]\n"
        "runner.run_job(Path(sys.argv[1]), 'a')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        wait_for(workdir / "begun")
        process.kill()
    holder = JOB.holder(workdir)
    os.kill(int((workdir / "begun").read_text()), signal.SIGKILL)
    assert holder, "its command is still at work"
    end = time.monotonic() + 20
    while JOB.holder(workdir):
        assert time.monotonic() < end
        time.sleep(0.01)


# Many jobs: an engine that runs them in this process.


class Here:
    """One task a call, at once."""

    def __init__(self, folder, before=lambda name: None):
        self.folder, self.before, self.order, self.over = folder, before, [], []

    def start(self, tasks):
        (task, *_) = tasks
        self.order.append(task.name)
        self.before(task.name)
        try:
            code = runner.run_job(self.folder, task.name)
        except Stopped as stopped:
            code = stopped.code
        self.over.append((task, code))
        return [task]

    def ended(self):
        over, self.over = self.over, []
        return over

    def stop(self):
        self.order.append("stop")


def test_jobs_go_in_the_order_of_what_they_wait_for(tmp_path, fakes):
    jobs = [seeded("b", 0, after=["a"]), seeded("c", 0), seeded("a", 0, after=["c"])]
    engine = Here(tmp_path)
    assert launch(planned_in(tmp_path, *jobs), lambda: engine) == {"jobs": 3, "ran": 3}
    assert engine.order == ["c", "a", "b"]
    again = Here(tmp_path)
    assert launch(planned_in(tmp_path, *jobs), lambda: again) == {"jobs": 3, "ran": 0}
    assert again.order == []


def test_what_was_killed_is_tried_again_and_what_the_user_must_mend_is_not(tmp_path, fakes, capfd):
    jobs = [
        seeded("bad", 2), seeded("killed", 9), seeded("fine", 0),
        seeded("later", 0, after=["bad"]), seeded("last", 0, after=["later"]),
    ]  # fmt: skip
    engine = Here(tmp_path)
    with pytest.raises(UnfinishedError, match="3 of 5 jobs are not done"):
        launch(planned_in(tmp_path, *jobs), lambda: engine)
    assert engine.order == ["bad", "killed", "killed", "fine"]
    said = capfd.readouterr().err.splitlines()
    assert "qgf: killed: killed by signal 9: trying again, 1 of 3" in said
    assert said[-2] == (
        f"qgf: failed: bad: the data are gone: look ({tmp_path / 'bad' / 'job.log'})"
    )
    assert said[-1] == "qgf: not begun, as what they wait for has failed: later, last"


def test_tries_are_counted(tmp_path, monkeypatch):
    words = lambda module, *words: [sys.executable, "-S", "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(children, "command", words)
    engine = Here(tmp_path)
    with pytest.raises(UnfinishedError):
        launch(planned_in(tmp_path, seeded("a", 0)), lambda: engine, retries=2)
    assert engine.order == ["a"] * 3


def test_a_job_that_another_sweep_works_on_is_waited_for(tmp_path, fakes, monkeypatch):
    from qgf_jax.sweep import launch as launching

    monkeypatch.setattr(launching, "_LOOK", 0.1)
    found = planned_in(tmp_path, seeded("a", 0))
    begun, end = threading.Event(), threading.Event()

    def other():
        with JOB.lock(tmp_path / "a"):
            begun.set()
            end.wait(20)
            finish(found.jobs["a"], tmp_path)

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait(20)
    threading.Timer(0.5, end.set).start()
    engine = Here(tmp_path)
    assert launch(found, lambda: engine) == {"jobs": 1, "ran": 1}
    thread.join()
    assert engine.order == [], "it was done by then"


def test_a_signal_to_the_sweep_stops_all_and_the_same_command_goes_on(tmp_path, fakes):
    jobs = [seeded("a", 0), seeded("b", 0)]
    engine = Here(tmp_path, lambda name: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="1 of 2 jobs are done; the same command goes on") as stopped:
        launch(planned_in(tmp_path, *jobs), lambda: engine)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert engine.order == ["a", "stop"]
    assert launch(planned_in(tmp_path, *jobs), lambda: Here(tmp_path)) == {"jobs": 2, "ran": 1}


# The engine `local`.


def task(folder, name, code="", **needs):
    needs = Needs(**{"devices": 0, "memory_gib": 0.0, **needs})
    words = (sys.executable, "-S", "-c", code)
    return Task(name, words, folder, folder / name / "job.log", needs)


def local(**options):
    return engine_with("local", {k: str(v) for k, v in options.items()})()


def test_as_many_at_once_as_there_is_room_for(tmp_path):
    wait = "import time; time.sleep(60)"
    engine = local(cores=4, memory_gib=8)
    offered = [
        task(tmp_path, "two", wait, cores=2),
        task(tmp_path, "large", wait, cores=1, memory_gib=6.5),
        task(tmp_path, "larger", wait, cores=1, memory_gib=6),  # waits, and keeps its core
        task(tmp_path, "small", wait, cores=1),
    ]
    assert [one.name for one in engine.start(offered)] == ["two", "large"]
    assert engine.start(offered[2:]) == []
    engine.stop()
    assert all_of(engine, 2) == {"two": -signal.SIGTERM, "large": -signal.SIGTERM}
    assert [one.name for one in engine.start(offered[2:])] == ["larger", "small"]
    engine.stop()
    all_of(engine, 2)


def test_what_needs_more_than_there_is_runs_alone(tmp_path):
    engine = local(cores=2, memory_gib=1)
    offered = [task(tmp_path, name, cores=8, memory_gib=100) for name in "ab"]
    assert len(engine.start(offered)) == 1
    assert all_of(engine, 1) == {"a": 0}


def test_each_job_has_its_own_devices(tmp_path):
    code = (
        "import os, pathlib, sys; name = os.environ.get('CUDA_VISIBLE_DEVICES', '');"
        "print(name); sys.exit(len(name))"
    )
    engine = local(cores=8, devices="0,GPU-7,3")
    offered = [task(tmp_path, n, code, devices=d) for n, d in (("a", 1), ("b", 2), ("c", 1))]
    assert [one.name for one in engine.start(offered)] == ["a", "b"]
    assert all_of(engine, 2) == {"a": 1, "b": 7}
    assert (tmp_path / "b" / "job.log").read_text() == "GPU-7,3\n"
    assert len(engine.start(offered[2:])) == 1
    assert all_of(engine, 1) == {"c": 1}
    assert len(local(cores=8, devices="none").start(offered)) == 3, (
        "where there are none, none wait"
    )


def test_parts_of_a_device_are_shared_and_whole_ones_are_not(tmp_path):
    wait = "import time; time.sleep(60)"
    show = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
    engine = local(cores=16, devices="0,1")
    needed = {"a": 0.5, "b": 0.6, "c": 0.4, "two": 2, "d": 0.3, "cpu": 0}
    offered = [task(tmp_path, n, wait, devices=d) for n, d in needed.items()]
    assert [one.name for one in engine.start(offered)] == ["a", "b", "c", "cpu"], (
        "b has no room beside a; c has beside b; d would pass what needs both; the CPU is free"
    )
    engine.stop()
    all_of(engine, 4)
    shown = [task(tmp_path, n, show, devices=d) for n, d in needed.items()]
    engine.start(shown[:3])
    all_of(engine, 3)
    logs = {n: (tmp_path / n / "job.log").read_text() for n in "abc"}
    assert logs == {"a": "0\n", "b": "1\n", "c": "1\n"}


def test_a_part_of_a_device_is_a_part_of_its_memory(tmp_path, monkeypatch):
    name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    monkeypatch.delenv(name, raising=False)
    job = lambda devices: Planned(some("a", needs=Needs(devices=devices)))
    of = lambda devices: runner._environment(job(devices), tmp_path)
    assert of(0.25)[name] == "0.2250" and name not in of(1) and name not in of(0)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", ".4")
    assert name not in of(0.25), "JAX refuses both"
    assert Needs.parse("devices=0.25").devices == 0.25 and type(Needs(devices=2.0).devices) is int
    for text in ("1.5", "-1", "nan", "0.001"):
        with pytest.raises(UserError, match=r"needs.devices is .*; it must be a whole number"):
            Needs.parse(f"devices={text}")


def test_a_sweep_is_a_group_at_weights_and_biases(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_RUN_GROUP", raising=False)
    of = lambda: runner._environment(Planned(some("a")), tmp_path / "runs" / "offline")
    assert of()["WANDB_RUN_GROUP"] == "offline"
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    assert of()["WANDB_RUN_GROUP"] == "mine"


# The command.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config=x.py"], "--out is missing"),
        (["--out=o"], "give a file of jobs, or --config and --grid"),
        (["no.py", "--out=o"], "no sweep no.py"),
        (["s.py", "--grid=seed=1", "--out=o"], "--grid is for a sweep without a file"),
        ([f"--config={TINY}", "--grid=seed", "--out=o"], "write KEY=a,b or KEY=FIRST..LAST"),
        ([f"--config={TINY}", "--grid=seed=3..1", "--out=o"], "the smaller number first"),
        ([f"--config={TINY}", "--grid=sede=1", "--out=o"], "unknown config key 'sede'"),
        ([f"--config={TINY}", "--evaluate=--episode=1", "--out=o"], "evaluation: unrecognized"),
        ([f"--config={TINY}", "--evaluate=--methods=qfg", "--out=o"], "did you mean 'qgf'"),
        ([f"--config={TINY}", "--out=o", "--on=loca"], "unknown engine 'loca'"),
        ([f"--config={TINY}", "--out=o", "--core=1"], "did you mean '--cores'"),
        ([f"--config={TINY}", "--out=o", "--cores=-1"], "--cores is -1; it must be"),
        ([f"--config={TINY}", "--out=o", "--flop"], "unknown argument '--flop'"),
        ([f"--config={TINY}", "--out=o", "--flops"], "--flops goes with --dry_run"),
        (["status", "o"], "o holds no sweep"),
    ],
)
def test_a_wrong_command_is_one_line_and_makes_nothing(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("sweep", *words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_page_says_what_the_command_does(tmp_path, monkeypatch, capsys):
    """Each `qgf sweep` of docs/launching.md: planned, and then, as if its runs were done, called."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qgf_jax.data.collect.collect", lambda *given, **options: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    Path("experiments").symlink_to(ROOT / "experiments")
    text = (ROOT / "docs" / "launching.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    Path("sweeps").mkdir()
    Path("sweeps/critics.py").write_text(code)
    commands = [shlex.split(line)[1:] for line in re.findall(r"^    (qgf sweep .*)$", text, re.M)]
    begin = [words for words in commands if words[1] not in ("status", "cancel", "run-job")]
    for words in begin:
        assert command(*words, "--dry_run") == 0, words
    for folder, file in (("runs/critics", "sweeps/critics.py"), ("runs/cube", "")):
        jobs = read_file(Path(file)) if file else [Job(config=CUBE, overrides={"seed": 0})]
        found, _ = Plan.with_configs(jobs, tmp_path / folder)
        found.folder.mkdir(parents=True)
        found.write()
        for one in found.jobs.values():
            finish(one, found.folder, step=one.steps or 1)
    capsys.readouterr()
    for words in commands:
        if words not in begin or "sweeps/critics.py" in words:
            assert command(*words) == 0, words
    assert '"jobs": 6, "ran": 0' in capsys.readouterr().out


def test_a_sweep_trains_evaluates_and_is_done(tmp_path, maze_data, capsys):
    """One real job on the engine `local`; the same command again finds nothing to do."""
    words = [
        "sweep", f"--config={TINY}", "--grid", "seed=3", f"--grid=data.dir={maze_data}",
        "--evaluate=--methods=reference --episodes=1 --selection_episodes=0 --envs=1",
        "--on=local", "--cores=1", f"--out={tmp_path / 'runs'}",
    ]  # fmt: skip
    assert command(*words, "--dry_run", "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["state"], one["steps"]) == ("waiting", 4) and not (tmp_path / "runs").exists()
    assert command(*words) == 0, (tmp_path / "runs" / one["name"] / "job.log").read_text()
    assert json.loads(capsys.readouterr().out)["ran"] == 1
    (lines,) = (tmp_path / "runs").glob("*/episodes.jsonl")
    (line,) = lines.read_text().splitlines()
    assert json.loads(line)["step"] == 4
    assert command(*words) == 0
    assert json.loads(capsys.readouterr().out)["ran"] == 0
    assert command("sweep", "status", str(tmp_path / "runs"), "--json") == 0
    (state,) = json.loads(capsys.readouterr().out)
    assert (state["word"], state["step"], state["steps"]) == ("done", 4, 4)


def test_some_jobs_are_chosen_with_what_they_wait_for():
    first, second = (Job(name=name, config="smoke.py") for name in ("first", "second"))
    added = Job(name="added", source="first", add="td")
    played = Job(
        name="played", source="added", after=["elsewhere/run"], evaluations=["--methods=qgf"]
    )
    jobs = [second, played, added, first]
    assert chosen(jobs, ["play*"]) == [played, added, first]
    assert chosen(jobs, ["first", "sec?nd"]) == [second, first]
    with pytest.raises(UserError, match="unknown job 'fist': did you mean 'first'"):
        chosen(jobs, ["fist"])
