"""Chunks that follow one another: receding horizon, delay and real-time chunking, wherever one acts."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import command

from qgf_jax import load_policy
from qgf_jax.cli import evaluate as evaluate_command
from qgf_jax.envs.jax_pointmaze import PointMaze
from qgf_jax.envs.pool import Move, Played
from qgf_jax.errors import UserError
from qgf_jax.evaluation import worker_pool
from qgf_jax.evaluation.arms import Arm, Program
from qgf_jax.evaluation.device import DeviceSimulator
from qgf_jax.evaluation.evaluate import evaluate
from qgf_jax.evaluation.simulators import Usage
from qgf_jax.evaluation.summary import summarize
from qgf_jax.evaluation.sweep import Job
from qgf_jax.methods.pace import Pace
from qgf_jax.methods.table import Method
from qgf_jax.runs.files import Lines
from qgf_jax.runs.loaded import LoadedRun

WHOLE = Program("qgf", 1, ())


def test_a_pace_is_what_its_options_and_the_chunk_allow():
    assert Pace.of({}, 5) == Pace(5, 5, 0) and not Pace.of({"cap": 2.0}, 5).overlaps
    assert Pace.of({"execute": 5}, 5) == Pace(5, 5, 0)
    assert Pace.of({"delay": 2}, 5) == Pace(5, 3, 2) and Pace.of({"delay": 2}, 5).overlaps
    assert Pace.of({"execute": 1, "delay": 4}, 5) == Pace(5, 1, 4)
    for wrong, hint in (
        ({"execute": 6}, "chunks of 5 actions: execute at most 5"),
        ({"execute": 4, "delay": 2}, "execute at most 3"),
        ({"delay": 5}, "delay by at most 4"),
        ({"execute": 1, "delay": 2, "rtc": 5.0}, "would not be there yet"),
    ):
        with pytest.raises(UserError, match=hint):
            Pace.of(wrong, 5)


def test_a_pace_is_part_of_the_arm():
    text = evaluate_command._paced("qgf:execute=2:rtc=5", execute=3, delay=1)
    assert text == "qgf:execute=2:rtc=5:delay=1"
    assert evaluate_command._paced("qgf", execute=None, delay=0) == "qgf"
    (arm,) = Arm.sweep([text], [0.5])
    assert arm.options == (("delay", 1), ("execute", 2), ("rtc", 5.0))
    assert arm.sampler.label == "qgf:delay=1:execute=2:rtc=5.0"
    assert arm._replace(weight=0.0).acts_as == Arm("reference", 0.0, 1, arm.options)
    assert arm.program == Program("qgf", 1, (("delay", 1), ("execute", 2)), ("rtc",))
    assert arm.numbers == (5.0,)
    (idle,) = Arm.sweep(["qgf:execute=2:rho=1:rtc=0"], [0.0])  # no critic is asked
    assert idle.acts_as == Arm("reference", 0.0, 1, (("execute", 2), ("rtc", 0.0)))
    assert idle.acts_as.program.arguments == ()
    with pytest.raises(UserError, match="option of fql"):
        Method.parse("fql:rtc=5")
    assert Method.parse("fql:delay=1")[1] == (("delay", 1),)
    assert not Method.named("qgf").free_options.keys() & Pace.options().keys()  # no config has them


class Recorder:
    """Environments whose episodes last seven steps, and what was done there."""

    action_dim, obs_width, goal, name = 2, 2, None, "fake"

    def __init__(self):
        self.actions, self.seeds, self.asked = {}, {}, []

    def ask_reset(self, slots, seeds):
        for slot, seed in zip(slots, seeds, strict=True):
            self.seeds[slot] = seed
            self.actions[seed] = []
        return self.ask(slots, 0)

    def ask_step(self, slots, chunks):
        for slot, chunk in zip(slots, chunks, strict=True):
            self.actions[self.seeds[slot]] += [*chunk]
        return self.ask(slots, chunks.shape[1])

    def ask(self, slots, steps):
        self.asked.append((Move(slots, {}), steps))
        return self.asked[-1][0]

    def answer(self, move):
        _, steps = self.asked.pop(0)
        ended = [len(self.actions[self.seeds[slot]]) >= 7 for slot in move.slots]
        obs = [seen(self.seeds[s], len(self.actions[self.seeds[s]])) for s in move.slots]
        return np.stack(obs), [Played(0.0, steps, end, 0.0) for end in ended]


def seen(seed, steps):
    return np.float32([seed % 10 - 3.0 + 0.3 * steps, 0.1 * steps])


def by_hand(act, options, observe, steps):
    """The first actions of an episode: each of the newest chunk that has come, or of the first one.

    `act`: (observation, number of chunks before) -> chunk [H, A]; `observe`: steps, actions -> obs.
    """
    execute, delay = options["execute"], options.get("delay", 0)
    chunks, played = [], []
    for now in range(steps):
        if now % execute == 0:
            chunks.append(act(observe(now, played), len(chunks)))
        newest = max([0, *(n for n in range(1, len(chunks)) if n * execute + delay <= now)])
        played.append(chunks[newest][now - newest * execute])
    return np.stack(played)


PACES = [{"execute": 1}, {"execute": 2, "delay": 1}, {"execute": 1, "delay": 2}]


@pytest.mark.whole(but_every=3)
@pytest.mark.parametrize("options", PACES)
@pytest.mark.parametrize("groups", [1, 2])
def test_workers_play_the_newest_chunk_that_has_come(run_folder, options, groups):
    restored, pool = LoadedRun.open(run_folder), Recorder()
    sampler = WHOLE._replace(options=tuple(options.items()))
    paced = worker_pool._compile_act(restored, sampler, -(-3 // groups))
    batch = worker_pool._Batch(
        restored, paced, pool, list(worker_pool._groups(2, 3, groups)), Usage(),
        pace=restored.pace(sampler.options),
    )  # fmt: skip
    arm = Arm("qgf", 0.5, 1, sampler.options)
    jobs = [Job((arm,), i % 2, 1, i) for i in range(8)]
    assert sorted(job for job, _ in batch.play(jobs)) == sorted(jobs)
    whole = worker_pool._compile_act(restored, WHOLE, 1)
    for job in jobs:

        def act(obs, count, job=job):
            given = np.stack([[obs]] * 2), np.int32([[[1, job.episode, count]]] * 2)
            return whole(*given, np.full((2, 1), 0.5, np.float32))[job.seed, 0]

        seed = job.reset_seed
        found = np.stack(pool.actions[seed])
        assert len(found) == -(-7 // options["execute"]) * options["execute"]
        expected = by_hand(act, options, lambda now, _, seed=seed: seen(seed, now), len(found))
        np.testing.assert_array_equal(found, expected)


def test_the_device_plays_the_newest_chunk_that_has_come(run_folder):
    restored, options = LoadedRun.open(run_folder), {"execute": 1, "delay": 2}
    maze = PointMaze(restored.run.config["env"])
    arm = Arm("qgf", 1.0, 1, tuple(sorted(options.items())))
    jobs, found = [Job((arm,), seed, 1, 3) for seed in range(2)], {}
    DeviceSimulator(restored, maze, 2).rollout(jobs, found.__setitem__)
    whole, step = worker_pool._compile_act(restored, WHOLE, 1), jax.jit(maze.step)
    state, obs = maze.reset(maze.start(1, jobs[1].reset_seed))
    path = [np.asarray(obs)]

    def act(obs, count):
        identity = np.int32([[[1, 3, count]]] * 2)
        return whole(np.float32([[obs]] * 2), identity, np.ones((2, 1), np.float32))[1, 0]

    def observe(now, played):
        nonlocal state
        if now:
            state, obs, *_ = step(state, played[-1])
            path.append(np.asarray(obs))
        return path[-1]

    by_hand(act, options, observe, 30)
    result = found[jobs[1]]
    assert len(result["path"]) == result["length"] + 1  # a decision in every step
    np.testing.assert_allclose(result["path"][:30], path, atol=0.006)  # rounded to two digits


def test_the_noise_is_that_of_the_episode_and_the_number_of_chunks_before(run_folder):
    """A plan at delay 0 is the whole chunk, whatever was decided before."""
    restored = LoadedRun.open(run_folder)
    paced = worker_pool._compile_act(restored, WHOLE._replace(options=(("execute", 1),)), 4)
    whole, rng = worker_pool._compile_act(restored, WHOLE, 4), np.random.default_rng(0)
    given = (
        rng.normal(size=(2, 4, 2)).astype(np.float32),
        np.int32([[[1, 7, i] for i in range(4)]] * 2),
        np.ones((2, 4), np.float32),
    )
    before = rng.normal(size=(2, 4, 3, 2)).astype(np.float32)
    np.testing.assert_array_equal(paced(*given, before), whole(*given))


def test_real_time_chunking_goes_on_from_the_chunk_before_and_from_nothing_at_first(run_folder):
    restored, rng = LoadedRun.open(run_folder), np.random.default_rng(0)
    obs = rng.normal(size=(2, 16, 2)).astype(np.float32)
    weight = np.full((2, 16), 0.5, np.float32)
    before = rng.uniform(-0.5, 0.5, (2, 16, 3, 2)).astype(np.float32)
    free, rtc = (("delay", 1), ("execute", 1)), (("delay", 1), ("execute", 1), ("rtc", 3.0))
    act = {
        x: worker_pool._compile_act(restored, WHOLE._replace(options=x), 16) for x in (free, rtc)
    }
    identity = np.int32([[[1, i, 0] for i in range(16)]] * 2)
    np.testing.assert_allclose(
        act[rtc](obs, identity, weight, before), act[free](obs, identity, weight, before), atol=1e-6
    )
    identity[..., 2] = 1
    plain, found = (act[x](obs, identity, weight, before) for x in (free, rtc))
    for plan in (plain, found):
        np.testing.assert_array_equal(plan[:, :, 0], before[:, :, 1])
    # Action 1 of the new chunk is action 2 of the one before; action 2 is beyond its end.
    gaps = [np.abs(plan[:, :, 1] - before[:, :, 2]).mean() for plan in (plain, found)]
    assert gaps[1] < 0.9 * gaps[0]


@pytest.mark.whole
def test_a_program_is_given_the_bound_and_composes_it_with_a_gate(run_folder):
    """Each environment acts with its own numbers, as a program made for them does."""
    restored, rng = LoadedRun.open(run_folder), np.random.default_rng(0)
    pace, names = (("delay", 1), ("execute", 1)), ("gate", "rtc")
    given = (
        rng.normal(size=(2, 4, 2)).astype(np.float32),
        np.ones((2, 4, 3), np.int32),
        np.full((2, 4), 20.0, np.float32),
    )
    before = rng.uniform(-0.5, 0.5, (2, 4, 3, 2)).astype(np.float32)
    act = worker_pool._compile_act(restored, Program("qgf_jacobian", 1, pace, names), 4)
    gates, bounds = np.resize(np.float32([0, 9]), (2, 4)), np.float32([[0, 0, 3, 3]] * 2)
    together, found = act(*given, gates, bounds, before), []
    for gate, rtc in ((0.0, 0.0), (9.0, 0.0), (0.0, 3.0), (9.0, 3.0)):
        own = Program("qgf_jacobian", 1, (*pace, ("gate", gate), ("rtc", rtc)))
        found.append(worker_pool._compile_act(restored, own, 4)(*given, before))
        mine = (gates == gate) & (bounds == rtc)
        np.testing.assert_allclose(together[mine], found[-1][mine], atol=1e-4)
    assert min(np.abs(a - b).max() for a in found for b in found if a is not b) > 1e-3


def test_a_sweep_of_bounds_is_compiled_once(run_folder, tmp_path, monkeypatch):
    made, real = [], LoadedRun.sampler

    def counting(self, method, best_of, options):
        made.append((method, [name for name, _ in options]))
        return real(self, method, best_of, options)

    monkeypatch.setattr(LoadedRun, "sampler", counting)
    texts = [f"qgf:delay=1:execute=1:rtc={bound}" for bound in (1, 2, 5)]
    options = {"episodes": 1, "selection_episodes": 0, "tasks": (1,), "envs": 4}
    out = tmp_path / "out"
    evaluate(run_folder, Arm.sweep(texts, [0.5]), simulator="jax", out=out, **options)
    assert made == [("qgf", ["delay", "execute", "rtc"])]
    lines = Lines.read(out / "episodes.jsonl").records
    assert {line["options"]["rtc"] for line in lines} == {1.0, 2.0, 5.0} and len(lines) == 6
    with pytest.raises(UserError, match="would not be there yet"):
        evaluate(run_folder, Arm.sweep(["qgf:delay=2:execute=1:rtc=5"], [0.5]), out=out, **options)


def test_a_trust_region_lies_about_the_action_that_goes_on_from_the_chunk_before(run_folder):
    restored, obs, key = LoadedRun.open(run_folder), np.ones(2, np.float32), jax.random.key(0)
    before = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 2)).astype(np.float32)
    chunk = lambda *method, **options: np.asarray(
        restored.policy(*method, execute=1, **options)(obs, key, previous=before)
    )
    ahead, free = chunk("reference", rtc=3.0), chunk("reference")
    held = chunk("qgf", 20.0, rtc=3.0, trust_radius=1e-4)
    np.testing.assert_allclose(held, ahead, atol=2e-4)
    assert np.abs(ahead - free).max() > 0.01


def test_a_policy_is_given_what_it_gave_before(run_folder):
    obs, key = np.array([1.0, 2.0], np.float32), jax.random.key(0)
    options = {"weight": 0.5, "execute": 1, "delay": 1, "rtc": 3.0}
    policy, restored = load_policy(run_folder, **options), LoadedRun.open(run_folder)
    first, plain = policy(obs, key), restored.policy(weight=0.5)
    np.testing.assert_array_equal(first, plain(obs, key))
    following = policy(obs, key, previous=first + 0.1)
    np.testing.assert_array_equal(following[0], first[1] + 0.1)
    assert np.abs(following - policy(obs, key, previous=first)).max() > 0.05
    batch = policy(np.tile(obs, (2, 1)), key, previous=jnp.stack([first, first + 0.1]))
    np.testing.assert_array_equal(batch[:, 0], [first[1], first[1] + 0.1])
    every = restored.policy(seed=None, **options)
    both = every(obs, key, previous=every(obs, key))
    assert both.shape == (2, 3, 2)
    np.testing.assert_allclose(both[0], policy(obs, key, previous=first), atol=2e-3)
    with pytest.raises(UserError, match=r"shape \(2, 2\): give \(3, 2\)"):
        policy(obs, key, previous=first[:2])
    with pytest.raises(UserError, match="a previous one means nothing"):
        plain(obs, key, previous=first)
    for wrong in ({"execute": 4}, {"delay": 3}, {"execute": -1}, {"rtc": True}):
        with pytest.raises(UserError):
            restored.policy(**wrong)


def test_scaled_actions_are_compared_in_the_networks_units(run_folder):
    restored, key = LoadedRun.open(run_folder), jax.random.key(0)
    spec = restored.spec._replace(action_shift=(1.0, -2.0), action_scale=(2.0, 0.5))
    scaled = dataclasses.replace(restored, spec=spec)
    before = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 2)).astype(np.float32)
    plain, other = (
        run.policy(weight=0.5, execute=1, delay=1, rtc=3.0)(
            np.ones(2, np.float32), key, previous=run.spec.to_environment(before)
        )
        for run in (restored, scaled)
    )
    np.testing.assert_allclose(other, spec.to_environment(plain), atol=1e-5)


@pytest.mark.whole
def test_lines_tables_and_resuming_keep_paces_apart(run_folder, tmp_path, capsys):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    words = ["evaluate", f"--workdir={folder}", "--episodes=1", "--selection_episodes=0"]
    words += ["--envs=jax:2", "--weights=0.5"]

    def lines():
        return list(Lines.read(folder / "episodes.jsonl").records)

    for wrong, hint in (
        (["--execute=4"], "execute at most 3"),
        (["--execute=3", "--delay=1"], "execute at most 2"),
        (["--execute=0"], "a whole number from 1"),
        (["--methods=qgf,qgf:execute=1:delay=2:rtc=5"], "would not be there yet"),
    ):
        assert command(*words, "--methods=qgf", *wrong) == 2
        said = capsys.readouterr().err.strip()
        assert hint in said and "\n" not in said
    assert not (folder / "episodes.jsonl").exists()
    both = "--methods=qgf,qgf:rtc=5"
    for more in (["--methods=qgf"], [both, "--delay=1"], [both, "--delay=1"]):  # none twice
        assert command(*words, *more) == 0
    found = [json.dumps(line["options"], sort_keys=True) for line in lines() if not line["seed"]]
    assert found == [
        "{}",
        '{"delay": 1}',
        '{"delay": 1, "rtc": 5.0}',
    ]
    rows = summarize(lines())
    assert len(rows) == 3 and all(row["seeds"] == 2 and row["selected"] for row in rows)


def test_chunks_that_do_not_overlap_have_nothing_to_go_on_from():
    with pytest.raises(UserError, match="rtc without execute or delay"):
        Pace.of({"rtc": 5.0}, 5)
