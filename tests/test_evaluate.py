"""Evaluation as an experiment: identities, splits, sharing, resuming, and no recompilation."""

import dataclasses
import json
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from conftest import LONG, command

from qgf_jax import cli
from qgf_jax.cli import evaluate as evaluate_command
from qgf_jax.envs.pool import Move, Played
from qgf_jax.errors import UserError
from qgf_jax.evaluation import evaluate, worker_pool
from qgf_jax.evaluation.arms import Arm, Program
from qgf_jax.evaluation.compiled import Compiled
from qgf_jax.evaluation.simulators import Usage
from qgf_jax.evaluation.sweep import Job, Plan
from qgf_jax.runs import loaded
from qgf_jax.runs.files import Lines
from qgf_jax.runs.loaded import LoadedRun

QGF = Program("qgf", 1, ())


@pytest.fixture
def folder(run_folder, tmp_path):
    return shutil.copytree(run_folder, tmp_path / "run")


def lines_of(folder):
    return list(Lines.read(folder / "episodes.jsonl").records)


def identity(line):
    return tuple(line[k] for k in ("method", "weight", "best_of", "task", "episode", "seed"))


def test_arms_of_a_sweep():
    found = Arm.sweep(["reference", "best_of", "qgf"], [0, 0.5])
    assert found == [
        Arm("reference", 0.0, 1), Arm("best_of", 0.0, 4), Arm("qgf", 0.0, 1), Arm("qgf", 0.5, 1),
    ]  # fmt: skip
    found = Arm.sweep(["reference", "best_of", "qgf"], [0.5], best_of=[1, 8])
    assert found == [
        Arm("reference", 0.0, 1), Arm("best_of", 0.0, 8), Arm("qgf", 0.5, 1), Arm("qgf", 0.5, 8),
    ]  # fmt: skip
    found = Arm.sweep(["qgf", "grad_step"], [0.5], own_weights=True)
    assert [arm.weight for arm in found] == [0.5, 0.003, 0.01, 0.03, 0.1]
    assert [arm.best_of for arm in Arm.sweep(["ifql"], [1], best_of=[1, 4])] == [32]
    found = Arm.sweep(["reference", "best_of", "qgf"], [0.5], more=[32])
    assert [(arm.method, arm.best_of) for arm in found] == [
        ("reference", 1), ("best_of", 4), ("best_of", 32), ("qgf", 1),
    ]  # fmt: skip
    with pytest.raises(UserError, match="did you mean 'qgf'"):
        Arm.sweep(["qgff"], [1.0])


def test_what_to_play_is_known_without_jax():
    code = (
        "import sys, qgf_jax.evaluation.sweep, qgf_jax.cli.evaluate;"
        "print({'jax', 'flax', 'orbax', 'ogbench', 'mujoco'} & {*sys.modules})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout == "set()\n", out.stderr


def made(arm, task, episode, seed, **more):
    """A line of an episode that was played."""
    (line,) = Job((arm,), seed, task, episode).lines("maze", 7, {"return": -9.0, "length": 9})
    return {**line, "success": 1.0, **more}


def test_a_plan_plays_what_is_missing_and_shares_what_acts_alike():
    reference, zero, one = Arm("reference", 0.0, 1), Arm("qgf", 0.0, 1), Arm("qgf", 1.0, 1)
    plan = Plan("maze", (1, 2), 2, (reference, zero, one), episodes=2, selection_episodes=1)
    (jobs,) = plan.stages(7, [])
    assert len(jobs) == 2 * 2 * 3 * 2 and len({*jobs}) == len(jobs)
    assert {job.arms for job in jobs} == {(reference, zero), (one,)}
    assert [job.task for job in jobs] == [1] * 12 + [2] * 12
    assert {job.episode for job in jobs} == {0, 1, 3}
    lines = [line for job in jobs[:5] for line in job.lines("maze", 7, {})]
    lines += [made(one, 2, 3, 1), made(reference, 2, 3, 1), made(one, 2, 1, 1, failed="died")]
    (left,) = plan.stages(7, lines)
    assert len(left) == len(jobs) - 6  # of a shared job its other arm is left
    assert [job.arms for job in left if (job.task, job.episode, job.seed) == (2, 3, 1)] == [(zero,)]
    for step, env in ((8, "maze"), (7, "other")):  # lines of something else are no help
        (again,) = dataclasses.replace(plan, env=env).stages(step, lines)
        assert again == jobs


def test_a_plan_reports_the_selected_weight_alone():
    arms_ = [Arm("reference", 0.0, 1), Arm("qgf", 0.5, 1), Arm("qgf", 1.0, 1)]
    plan = Plan("maze", (1,), 1, arms_, 1, 2, report_selected=True)
    lines = []
    stages = plan.stages(7, lines)
    first = next(stages)
    assert {job.arms for job in first} == {(arms_[1],), (arms_[2],)}
    assert {job.episode for job in first} == {0, 2}
    lines += [
        made(arm, 1, episode, 0, success=float(arm.weight == 1.0))
        for arm in arms_[1:] for episode in (0, 2)
    ]  # fmt: skip
    second = next(stages)
    assert [job.arms for job in second] == [(arms_[0],), (arms_[2],)]
    assert {job.episode for job in second} == {1} and not [*stages]
    with pytest.raises(UserError, match="selection_episodes"):
        dataclasses.replace(plan, selection_episodes=0)


def test_flags_go_before_the_runs_own_options_and_no_environments_means_by_platform():
    own = {"episodes": 7, "envs": 12}

    def options(*words, **more):
        flags = evaluate_command._parser().parse_args(["--workdir=x", *words])
        found = evaluate_command._options(flags, own | more)
        return tuple(found[k] for k in ("simulator", "envs", "episodes"))

    assert options() == ("mujoco", 12, 7)
    assert options("--envs=0", "--episodes=0") == ("mujoco", 0, 0)
    assert options("--envs=jax") == ("jax", 0, 7) and options("--envs=jax:5") == ("jax", 5, 7)
    assert options(simulator="jax") == options("--envs=jax")
    assert options("--envs=3", simulator="jax") == ("jax", 3, 7)


def test_weight_zero_takes_the_path_without_a_critic_gradient():
    assert Arm("qgf", 0.0, 1).acts_as == Arm("reference", 0.0, 1)
    assert Arm("best_of", 0.0, 4).acts_as == Arm("reference", 0.0, 4)
    assert Arm("qgf", 2.0, 4).acts_as == Arm("qgf", 2.0, 4)
    linear = Arm("qgf", 0.0, 1, (("num_steps", 5), ("schedule", "linear")))
    assert linear.acts_as == Arm("reference", 0.0, 1, (("num_steps", 5),))
    assert Arm("ifql", 0.0, 32).acts_as == Arm("reference", 0.0, 32)
    assert Arm("cfgrl", 0.0, 1).acts_as == Arm("cfgrl", 0.0, 1)


def test_episode_seeds_are_distinct():
    seeds = {Job((), 0, task, i).reset_seed for task in range(1, 6) for i in range(0, 5000)}
    assert len(seeds) == 25_000


@pytest.fixture(scope="module")
def evaluated(run_folder, tmp_path_factory):
    folder = shutil.copytree(run_folder, tmp_path_factory.mktemp("evaluated") / "run")
    sweep = Arm.sweep(["reference", "best_of", "qgf"], [0.0, 0.5])
    usage = evaluate.evaluate(folder, sweep, episodes=2, selection_episodes=1, envs=4, workers=2)
    return folder, usage


def test_every_arm_meets_the_same_episodes(evaluated):
    folder, usage = evaluated
    lines = lines_of(folder)
    assert (
        len({identity(line) for line in lines}) == len(lines) == 4 * 3 * 2
    )  # arms, episodes, seeds
    for line in lines:
        assert line["split"] == ("report" if line["episode"] % 2 else "selection")
        assert line["return"] <= 0 and line["length"] <= 1000 and line["step"] == 4
    starts = {}
    for line in lines:
        starts.setdefault(line["episode"], set()).add(json.dumps(line["path"][0]))
    assert sorted(starts) == [0, 1, 3]
    assert all(len(s) == 1 for s in starts.values()) and len(set.union(*starts.values())) == 3
    assert usage.env_steps > 0 and usage.cpu_seconds >= usage.simulator_cpu_seconds > 0
    waited = usage.waited_for_simulator, usage.waited_for_policy
    assert min(waited) > 0 and usage.wall_seconds >= sum(waited) > usage.wall_seconds / 2


def contents(folder):
    """What a folder holds, and when each of it was last written."""
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in folder.rglob("*")
    }


def test_somebody_elses_run_is_evaluated_into_another_folder(evaluated, folder, tmp_path):
    """The same lines, which a second call and a report go on with, and the run stays as it is."""
    before, out = contents(folder), tmp_path / "mine"
    sweep = Arm.sweep(["reference"], [0.0])
    options = {"episodes": 2, "selection_episodes": 1, "envs": 4, "workers": 1}
    assert evaluate.evaluate(folder, sweep, **options, out=out).episodes == 6
    assert evaluate.evaluate(folder, sweep, **options, out=out).episodes == 0
    assert evaluate.evaluate(out, sweep, **options).episodes == 0
    cli.main(["report", f"--workdir={out}"])
    cli.main(["verify", str(out)])
    assert contents(folder) == before
    expected = {identity(line): line["return"] for line in lines_of(evaluated[0])}
    found = {identity(line): line["return"] for line in lines_of(out)}
    assert len(found) == 6 and found.items() <= expected.items()
    assert {p.name for p in out.iterdir()} == {
        "config.json", "episodes.jsonl", "episodes.lock", "report",
    }  # fmt: skip
    assert (out / "report" / "training.png").exists()


def test_shared_arms_are_played_once_and_written_for_each(evaluated):
    folder, usage = evaluated
    assert usage.episodes == 3 * 3 * 2
    lines = {identity(line): line for line in lines_of(folder)}
    for (method, weight, n, *rest), line in lines.items():
        if (method, weight) == ("qgf", 0.0):
            same = lines["reference", 0.0, n, *rest]
            assert {k: v for k, v in line.items() if k != "method"} == {
                k: v for k, v in same.items() if k != "method"
            }


def test_finished_episodes_are_not_played_again_and_torn_lines_are(evaluated, tmp_path, capsys):
    folder = shutil.copytree(evaluated[0], tmp_path / "run")
    sweep = Arm.sweep(["reference", "best_of", "qgf"], [0.0, 0.5])
    before = {identity(line): line for line in lines_of(folder)}
    path = folder / "episodes.jsonl"
    garbage = b'garbage\n{"method": "reference"}\n'
    path.write_bytes(garbage + path.read_bytes()[:-40])  # killed in the middle of a line
    usage = evaluate.evaluate(folder, sweep, episodes=2, selection_episodes=1, envs=4, workers=1)
    assert usage.episodes == 1
    said = [x for x in capsys.readouterr().err.splitlines() if "left out" in x]
    assert len(said) == 1 and "line 1 (not JSON), line 2 (weight is missing)" in said[0]
    path.write_bytes(path.read_bytes().removeprefix(garbage))  # the torn line is gone
    after = {identity(line): line for line in lines_of(folder)}
    assert after.keys() == before.keys()
    for key, line in after.items():
        assert (line["return"], line["path"]) == (before[key]["return"], before[key]["path"])
    again = evaluate.evaluate(folder, sweep, episodes=2, selection_episodes=1, envs=4)
    assert again.episodes == 0


class FakePool:
    """Environments whose episodes end after as many chunks as their seed says."""

    action_dim, obs_width, goal, name = 2, 2, None, "fake"

    def __init__(self):
        self.left = {}
        self.asked = []

    def ask_reset(self, slots, seeds):
        self.left |= {slot: 1 + seed % 7 for slot, seed in zip(slots, seeds, strict=True)}
        return self.ask(slots, 0)

    def ask_step(self, slots, chunks):
        assert all(self.left[slot] > 0 for slot in slots), "a finished episode was stepped"
        assert chunks.shape == (len(slots), 3, 2)
        return self.ask(slots, 1)

    def ask(self, slots, steps):
        assert not {slot for move, _ in self.asked for slot in move.slots} & set(slots)
        move = Move(slots, {})
        self.asked.append((move, steps))
        return move

    def answer(self, move):
        oldest, steps = self.asked.pop(0)
        assert move is oldest
        for slot in move.slots:
            self.left[slot] -= steps
        played = [Played(-3.0, 3 * steps, self.left[slot] == 0, 1.0) for slot in move.slots]
        return np.zeros((len(move.slots), 2), np.float32), played


@pytest.mark.parametrize("groups", [1, 2])
def test_sweep_with_episodes_of_all_lengths_compiles_the_sampler_once(
    run_folder, monkeypatch, groups
):
    restored = LoadedRun.open(run_folder)
    traces = []
    real = LoadedRun.sampler

    def counting(*args):
        sample = real(*args)

        def counted(*inner):
            traces.append(1)
            return sample(*inner)

        return counted

    monkeypatch.setattr(LoadedRun, "sampler", counting)
    pool, busy = FakePool(), []
    compiled = worker_pool._compile_act(restored, QGF, -(-3 // groups))

    def act(*args):
        busy.append({slot for move, _ in pool.asked for slot in move.slots})
        return compiled(*args)

    jobs = [
        Job((Arm("qgf", weight, 1),), seed, 1, episode)
        for weight in (0.1, 0.5, 2.0) for seed in (0, 1) for episode in range(9)
    ]  # fmt: skip
    with jax.log_compiles(False):
        batch = worker_pool._Batch(
            restored, act, pool, list(worker_pool._groups(2, 3, groups)), Usage()
        )
        results = list(batch.play(jobs))
    assert len(traces) == 1
    assert sorted(job for job, _ in results) == sorted(jobs)
    for job, result in results:
        assert result["length"] == 3 * (1 + job.reset_seed % 7)
        assert result["return"] == -result["length"] and result["success"] == 1.0
    # While the policy acts for one group the other plays, until there is nothing left for it.
    share = sum(map(bool, busy)) / len(busy)
    assert share > 0.9 if groups == 2 else share < 0.7  # environments of its own group may begin


def test_groups_divide_the_environments_into_batches_of_one_shape():
    one, other = worker_pool._groups(2, 5, 2)
    assert one.tolist() == [[0, 1, 2], [5, 6, 7]]
    assert other.tolist() == [[3, 4, 4], [8, 9, 9]]
    assert [g.tolist() for g in worker_pool._groups(1, 4, 1)] == [[[0, 1, 2, 3]]]


def test_the_summary_says_what_was_waited_for():
    usage = Usage(8, 6000, 10.0, 9.0, 12.0, 6.0, 3.0)
    assert evaluate_command._summary(usage) == (
        "8 episodes, 6000 environment steps, 600 a CPU-second, in 12.0 s; of these 50% waiting for the "
        "simulator, 25% for the policy"
    )
    on_device = dataclasses.replace(usage, waited_for_simulator=0.0, waited_for_policy=0.0)
    assert evaluate_command._summary(on_device).endswith("600 a CPU-second, in 12.0 s")


def test_environments_take_turns_where_that_helps(monkeypatch):
    assert worker_pool._turns(40, 40, 2) == 1  # this is a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert worker_pool._turns(40, 40, 16) == worker_pool._turns(32, 4, 16) == 2
    assert worker_pool._turns(31, 31, 16) == 1  # a group would leave a worker idle
    assert worker_pool._turns(8, 1, 2) == 1  # a seed's environment cannot be divided


def test_by_default_each_seed_has_as_many_environments_as_the_policy_acts_for(monkeypatch):
    enough = worker_pool.WorkerPool.enough
    assert (enough(1), enough(5), enough(10)) == (16, 80, 100)
    jobs = [Job((Arm("qgf", 1.0, 1),), s, 1, i) for s in (0, 1) for i in range(2 + s)]
    assert worker_pool._most_at_once(jobs) == 3  # no environment without anything to play
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert enough(5) == 0  # bits depend on it there: the platform's number alone
    assert worker_pool._most_at_once(jobs) > 1000


def test_actions_follow_identity_weight_and_seed_to_the_last_bit(run_folder):
    restored, rng = LoadedRun.open(run_folder), np.random.default_rng(0)
    obs = rng.normal(size=(2, 20, 2)).astype(np.float32)
    identity = np.array([[[1, i % 7, i % 3] for i in range(20)]] * 2, np.int32)
    weight = rng.choice(np.float32([0.1, 0.5, 2.0]), (2, 20))
    act = worker_pool._compile_act(restored, QGF, 20)
    together = act(obs, identity, weight)
    assert together.shape == (2, 20, 3, 2)
    assert not np.allclose(together[0], together[1])  # another training seed
    for size in (1, 10):  # whatever acts beside it, and wherever it stands
        order = rng.permutation(20)[:size]
        some = worker_pool._compile_act(restored, QGF, size)
        alone = some(obs[:, order], identity[:, order], weight[:, order])
        np.testing.assert_array_equal(alone, together[:, order])
    same = [np.repeat(x[:, :1], 20, axis=1) for x in (obs, identity, weight)]
    alike = act(*same)
    np.testing.assert_array_equal(alike, np.repeat(alike[:, :1], 20, axis=1))
    for part in range(3):
        other = same[1].copy()
        other[0, 1, part] += 1
        changed = np.array(act(same[0], other, same[2]))
        assert not np.allclose(changed[0, 1], alike[0, 1])
        changed[0, 1] = alike[0, 1]
        np.testing.assert_array_equal(changed, alike)


@pytest.mark.parametrize(
    ("envs", "workers", "groups"),
    [(2, 1, 1), (4, 3, 2), (10, 2, 1), (10, 2, 2), (20, 1, 2), (20, 3, 1)]
    if LONG
    else [(20, 3, 2)],
)
def test_episodes_are_the_same_to_the_last_bit_however_many_run_at_once(
    evaluated, run_folder, tmp_path, monkeypatch, envs, workers, groups
):
    """Two seeds, so 1, 2, 5 and 10 environments of each; the first was 4 and 2, in one group."""
    monkeypatch.setattr(worker_pool, "_turns", lambda *_: groups)
    expected = {identity(line): line for line in lines_of(evaluated[0])}
    folder = shutil.copytree(run_folder, tmp_path / "run")
    sweep = Arm.sweep(["reference", "best_of", "qgf"][:: 1 if envs % 4 else -1], [0.5, 0.0])
    evaluate.evaluate(folder, sweep, episodes=2, selection_episodes=1, envs=envs, workers=workers)
    found = {identity(line): line for line in lines_of(folder)}
    assert found.keys() == expected.keys()
    for key, line in found.items():
        for name in ("return", "success", "length", "path"):
            assert line[name] == expected[key][name], (key, name)


def test_other_learners_methods_are_refused(run_folder, monkeypatch):
    from qgf_jax.methods import table as algorithms

    restored = LoadedRun.open(run_folder)
    strange = algorithms.METHODS["qgf"]._replace(policies=("other",))
    monkeypatch.setitem(algorithms.METHODS, "strange", strange)
    with pytest.raises(UserError, match="'strange'"):
        restored.sampler("strange")


def test_report_episodes_of_the_selected_weight_alone(run_folder, tmp_path):
    from qgf_jax.evaluation import summary

    folder = shutil.copytree(run_folder, tmp_path / "run")
    sweep = Arm.sweep(["reference", "qgf", "qgf:schedule=linear"], [0.5, 1.0])
    options = {"episodes": 1, "selection_episodes": 1, "envs": 4, "workers": 1}
    evaluate.evaluate(folder, sweep, **options, report_selected=True)
    rows = summary.summarize(lines_of(folder))
    assert len([r for r in rows if r["split"] == "selection"]) == 4  # reference has no rival
    report = [r for r in rows if r["split"] == "report"]
    assert len(report) == 3 and all(r["selected"] for r in report)
    assert {str(r["options"]) for r in report} == {"{}", "{'schedule': 'linear'}"}
    again = evaluate.evaluate(folder, sweep, **options, report_selected=True)
    assert again.episodes == 0
    with pytest.raises(UserError, match="selection_episodes"):
        evaluate.evaluate(folder, sweep, selection_episodes=0, report_selected=True)


@pytest.mark.whole
def test_a_bandit_plays_its_budget_and_reports_what_it_chose(run_folder, tmp_path):
    from qgf_jax.evaluation import summary

    folder = shutil.copytree(run_folder, tmp_path / "run")
    sweep = Arm.sweep(["reference", "qgf"], [0.5, 1.0, 2.0])
    options = {"episodes": 1, "budget": 5, "envs": 4, "workers": 1}
    evaluate.evaluate(folder, sweep, **options)
    lines = lines_of(folder)
    assert sum(line["split"] == "selection" for line in lines) == 5  # of both seeds together
    rows = [row for row in summary.summarize(lines) if row["split"] == "report"]
    assert len(rows) == 2 and all(row["selected"] and row["seeds"] == 2 for row in rows)
    assert evaluate.evaluate(folder, sweep, **options).episodes == 0
    with pytest.raises(UserError, match="not by both"):
        evaluate.evaluate(folder, sweep, selection_episodes=1, budget=5)


def test_devices_divide_the_seeds_and_act_the_same(run_folder, monkeypatch):
    restored = LoadedRun.open(run_folder)
    width, rng = restored.spec.width, np.random.default_rng(0)
    asked = (
        rng.standard_normal((2, 3, width), np.float32),
        rng.integers(0, 5, (2, 3, 3)).astype(np.int32),
        np.ones((2, 3), np.float32),
    )
    assert len(loaded._sharding(2).device_set) == 2
    divided = worker_pool._compile_act(restored, QGF, 3)(*asked)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    monkeypatch.setattr(loaded, "_sharding", lambda count: one)
    np.testing.assert_array_equal(divided, worker_pool._compile_act(restored, QGF, 3)(*asked))
    assert np.any(divided[0] != divided[1])


def counted(monkeypatch, owner, name):
    """How often a class's method, or a class, is called from now on: a list that grows."""
    calls, real = [], getattr(owner, name)

    def call(*args, **options):
        calls.append(args)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


def results_of(folder):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines_of(folder)]


@pytest.mark.whole
@pytest.mark.parametrize("simulator", ["mujoco", "jax"])
def test_every_checkpoint_is_followed_with_the_programs_and_workers_of_the_first(
    run_folder, tmp_path, monkeypatch, simulator
):
    """The lines of one evaluation a step; the last step's constants, which come late, change nothing."""
    sweep = Arm.sweep(["reference", "qgf"], [0.5])
    options = {"episodes": 1, "selection_episodes": 0, "envs": 4, "simulator": simulator}
    apart, folder = (shutil.copytree(run_folder, tmp_path / name) for name in ("apart", "run"))
    for step in (2, 4):
        evaluate.evaluate(apart, sweep, step=step, **options, workers=1)
    compiled = counted(monkeypatch, Compiled, "__init__")
    pools = counted(monkeypatch, worker_pool, "EnvPool")
    opened = counted(monkeypatch, LoadedRun, "open")
    evaluate.evaluate(folder, sweep, **options, workers=1, follow=True)
    assert [line["step"] for line in lines_of(folder)] == [2] * 4 + [4] * 4

    def ordered(place):
        return sorted(results_of(place), key=lambda line: (line["step"], *identity(line)))

    assert ordered(folder) == ordered(apart)
    assert len(compiled) == 2 and len(pools) == (simulator == "mujoco") and len(opened) == 2
    assert "calibration" in LoadedRun.open(folder, 4).params
    assert "calibration" not in LoadedRun.open(folder, 2).params
    assert evaluate.evaluate(folder, sweep, **options, follow=True).episodes == 0
    assert len(opened) == 4  # and nothing was loaded for that


def test_checkpoints_are_followed_while_they_come_and_altered_ones_are_passed_by(
    folder, tmp_path, capsys
):
    """Step 2 was altered, step 4 comes later; with nothing to play but the last step there is an end."""
    (altered,) = (folder / "checkpoints" / "2").glob("manifest.ocdbt")
    altered.write_bytes(altered.read_bytes() + b"x")
    seal = folder / "checkpoints" / "seals" / "4.json"
    seal.rename(tmp_path / "later")
    words = ["--methods=reference", "--episodes=1", "--selection_episodes=0", "--envs=jax:2"]
    later = threading.Timer(0.3, lambda: (tmp_path / "later").rename(seal))
    later.start()
    assert command("evaluate", f"--workdir={folder}", "--follow", *words) == 0
    assert [line["step"] for line in lines_of(folder)] == [4, 4]
    said = [x for x in capsys.readouterr().err.splitlines() if x.startswith("qgf: ")]
    assert "checkpoint 2 is not used: manifest.ocdbt was altered" in said[0]
    assert said[1].endswith("after step 2, up to step 4") and len(said) == 2
    (folder / "episodes.jsonl").unlink()
    seal.write_text("{}")
    assert command("evaluate", f"--workdir={folder}", "--follow", *words) == 2
    assert "step 4 is not there or not sound" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--step=3", "leave --step out"),
        ("--methods=qgff", "did you mean 'qgf'"),
        ("--budget=4", "--select=bandit"),
    ],
)
def test_what_is_wrong_with_following_is_said_before_a_run_is_waited_for(
    tmp_path, capsys, word, said
):
    assert command("evaluate", f"--workdir={tmp_path / 'none'}", "--follow", word) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())
