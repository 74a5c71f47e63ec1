"""Simulators die, hang and lie; every episode ends as if they had not."""

import json
import os
import signal
import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import LONG, ROOT

from qgf_jax.envs import worker
from qgf_jax.envs.pool import EnvPool
from qgf_jax.envs.wire import Message
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


def in_turns(pool, between=None):
    """The same, each half asked to go on while the other is under way."""
    halves = (range(3), range(3, 6))
    asked = [(half, pool.ask_reset(half, SEEDS[half.start : half.stop])) for half in halves]
    seen, played = np.zeros((6, 6, pool.obs_width), np.float32), [[] for _ in range(5)]
    for step in range(6):
        if between and step == 4:
            between()
        for half, move in asked[:]:
            seen[step, half], results = pool.answer(move)
            if step:
                played[step - 1] += [result[:4] for result in results]
            asked.remove((half, move))
            if step < 5:
                asked.append((half, pool.ask_step(half, actions(step)[half])))
    return seen, played


def same(one, other):
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]


def test_each_failure_is_named_and_its_episodes_end_as_they_would_have(pool, tmp_path, capfd):
    """Every kind, in a first, middle or last worker, in the middle of an episode."""
    expected = play(pool)
    for number, kind in enumerate(KINDS):
        for place in range(3) if LONG else [number % 3]:
            for how in (play, in_turns) if LONG or kind in ("raise", "SIGKILL", "nan") else (play,):
                plan(tmp_path, kind, SEEDS[place + 3 * (number % 2)], 3)
                started = time.perf_counter()
                same(how(pool), expected)
                assert time.perf_counter() - started < TIMEOUT + 15.0  # on a busy machine
                said = capfd.readouterr().err
                assert said.count("warning") == 1
                assert f"environment worker {place} of {NAME}" in said


@pytest.mark.whole
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_lost_between_two_steps_is_replaced(pool, capfd, how):
    expected = play(pool)
    for place in range(3):
        playing = in_turns if place == 1 or (LONG and place) else play
        victim = pool._processes[place].pid
        same(playing(pool, between=lambda victim=victim: os.kill(victim, how)), expected)
        said = capfd.readouterr().err
        assert said.count("warning") == 1 and f"environment worker {place} of" in said


def test_a_worker_that_is_found_dead_when_it_is_asked_is_replaced(pool, capfd):
    """Nothing of the first half's move was heard before the second half's could not be sent."""
    expected = play(pool)
    first = pool.ask_reset(range(3), SEEDS[:3])
    pool._processes[1].kill()
    pool._processes[1].wait()
    second = pool.ask_reset(range(3, 6), SEEDS[3:])
    assert list(pool._lost) == [1]
    with pytest.raises(ValueError, match="in the order"):
        pool.answer(second)
    seen = np.concatenate([pool.answer(first)[0], pool.answer(second)[0]])
    np.testing.assert_array_equal(seen, expected[0][0])
    assert capfd.readouterr().err.count("warning") == 1 and not pool._lost
    np.testing.assert_array_equal(pool.step(range(6), actions(0))[0], expected[0][1])


@pytest.mark.whole
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


def test_an_episode_that_cannot_begin_is_over_at_its_first_step(pool, tmp_path):
    expected = play(pool)
    plan(tmp_path, "raise", SEEDS[4], 0, times=99)
    first = pool.reset(range(6), SEEDS)
    obs, results = pool.step(range(6), actions(0))
    assert [bool(result.failed) for result in results] == [False] * 4 + [True, False]
    others = [0, 1, 2, 3, 5]
    np.testing.assert_array_equal(first[others], expected[0][0][others])
    np.testing.assert_array_equal(obs[others], expected[0][1][others])


def test_an_episode_that_fails_twice_while_others_are_under_way_is_over(pool, tmp_path):
    expected = in_turns(pool)
    plan(tmp_path, "raise", SEEDS[4], 2, times=99)
    pool.reset(range(6), SEEDS)
    for step in range(2):
        asked = [pool.ask_step(half, actions(step)[half]) for half in (range(3), range(3, 6))]
        (one, first), (other, second) = (pool.answer(move) for move in asked)
    assert [bool(result.failed) for result in first + second] == [False] * 4 + [True, False]
    others = [0, 1, 2, 3, 5]
    np.testing.assert_array_equal(np.concatenate([one, other])[others], expected[0][2][others])


def test_a_worker_takes_requests_while_it_plays(monkeypatch):
    """Else two sides that each wait for the other to read could wait forever."""
    released = threading.Event()

    class Slow:
        obs_width, env = 2, SimpleNamespace(action_dim=2)

        def __init__(self, *_):
            pass

        def act(self, chunk):
            released.wait(30.0)
            return chunk[0], {"reward": 0.0, "steps": 1, "done": False, "success": 0.0}

    monkeypatch.setattr(worker, "_Slot", Slow)
    ours, theirs = socket.socketpair()
    ours.settimeout(10.0)
    threading.Thread(target=worker._serve, args=(theirs, "slow", 1), daemon=True).start()
    assert Message.receive(ours).header == {"action_dim": 2, "obs_width": 2}
    chunks = [np.full((1, 500_000, 2), i, np.float32) for i in range(3)]
    for actions in chunks:
        Message({"op": "step", "slots": [0]}, {"actions": actions}).send(ours)
    released.set()
    assert [Message.receive(ours).arrays["obs"][0, 0] for _ in chunks] == [0.0, 1.0, 2.0]
    ours.close()


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
    with pytest.raises(UserError, match="^Gymnasium knows no environment 'nowhere-v0'"):
        EnvPool("nowhere-v0", 1, 1)
