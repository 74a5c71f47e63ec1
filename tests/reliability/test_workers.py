"""Simulators die, hang and lie; every episode ends as if they had not."""

import json
import os
import signal
import time

import numpy as np
import pytest
from conftest import LONG, ROOT

from qgf_jax.envs.pool import EnvPool
from qgf_jax.errors import UserError

NAME = "pointmaze-medium-stitch-singletask-task1-v0"
SEEDS = (11, 12, 13, 14, 15, 16)
KINDS = ("raise", "exit", "SIGKILL", "SIGSEGV", "SIGSTOP", "hang", "nan", "shape", "nonsense")
TIMEOUT = 2.0


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULT", str(tmp_path / "fault"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    plan(tmp_path, "none", 0, 0)
    with EnvPool(NAME, 6, 3, timeout=TIMEOUT, module="faulty_worker") as found:
        yield found


def plan(folder, kind, seed, step, times=1):
    fault = {"kind": kind, "seed": seed, "step": step, "times": times}
    (folder / "fault").write_text(json.dumps(fault))
    (folder / "fault.n").unlink(missing_ok=True)


def actions(step):
    return np.random.default_rng(step).uniform(-1, 1, (6, 3, 2)).astype(np.float32)


def play(pool, between=None):
    """All that six episodes give in five chunks."""
    seen = [pool.reset(range(6), SEEDS)]
    played = []
    for step in range(5):
        if between and step == 3:
            between()
        obs, results = pool.step(range(6), actions(step))
        seen.append(obs)
        played.append([result[:4] for result in results])
    return np.stack(seen), played


def same(one, other):
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]


def test_each_failure_is_named_and_its_episodes_end_as_they_would_have(pool, tmp_path, capfd):
    """Every kind, in a first, middle or last worker, in the middle of an episode."""
    expected = play(pool)
    for number, kind in enumerate(KINDS):
        for worker in range(3) if LONG else [number % 3]:
            plan(tmp_path, kind, SEEDS[worker + 3 * (number % 2)], 3)
            started = time.perf_counter()
            same(play(pool), expected)
            assert time.perf_counter() - started < TIMEOUT + 5.0
            said = capfd.readouterr().err
            assert said.count("warning") == 1
            assert f"environment worker {worker} of {NAME}" in said


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_lost_between_two_steps_is_replaced(pool, capfd, how):
    expected = play(pool)
    for worker in range(3):
        victim = pool._processes[worker].pid
        same(play(pool, between=lambda victim=victim: os.kill(victim, how)), expected)
        assert f"environment worker {worker} of" in capfd.readouterr().err


def test_an_episode_that_fails_twice_is_over_and_the_others_are_not(pool, tmp_path):
    expected = play(pool)
    for kind in ("raise", "exit", "nan"):
        plan(tmp_path, kind, SEEDS[4], 3, times=99)
        pool.reset(range(6), SEEDS)
        for step in range(3):
            obs, results = pool.step(range(6), actions(step))
        assert [bool(result.failed) for result in results] == [False] * 4 + [True, False]
        assert results[4].done and results[4].success == 0.0
        others = [0, 1, 2, 3, 5]
        np.testing.assert_array_equal(obs[others], expected[0][3][others])
        obs, results = pool.step(others, actions(3)[others])
        np.testing.assert_array_equal(obs, expected[0][4][others])


def test_closing_is_quick_and_leaves_nobody(pool):
    play(pool)
    os.kill(pool._processes[1].pid, signal.SIGSTOP)
    pids = [process.pid for process in pool._processes]
    started = time.perf_counter()
    pool.close()
    assert time.perf_counter() - started < 2.5
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_worker_killed_while_it_starts_is_started_again():
    class Impatient(EnvPool):
        def _greeting(self, worker, tries=3):
            if worker == 1 and tries == 3:
                self._processes[1].kill()
            return super()._greeting(worker, tries)

    with Impatient(NAME, 2, 2) as pool:
        assert pool.reset([0, 1], [5, 5]).shape == (2, 2)


def test_a_worker_that_is_stuck_while_it_starts_is_started_again():
    class Stuck(EnvPool):
        def _greeting(self, worker, tries=3):
            if tries == 3:
                self.start_timeout = 0.5
                os.kill(self._processes[worker].pid, signal.SIGSTOP)
            else:
                self.start_timeout = 60.0
            return super()._greeting(worker, tries)

    with Stuck(NAME, 1, 1) as pool:
        assert pool.reset([0], [5]).shape == (1, 2)


def test_a_worker_that_cannot_start_is_an_error():
    with pytest.raises(UserError, match="worker 0 of nowhere-v0 could not start, exit code 1"):
        EnvPool("nowhere-v0", 1, 1, module="qgf_jax.nowhere")


def test_what_a_worker_refuses_is_an_error_in_its_own_words():
    with pytest.raises(UserError, match="^environment 'nowhere-v0' is neither of the form"):
        EnvPool("nowhere-v0", 1, 1)
