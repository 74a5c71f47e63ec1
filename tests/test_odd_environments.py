"""Environments that a user got wrong are one line, and odd ones that are right are played."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT

from qgf_jax import cli
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.envs.pool import EnvPool
from qgf_jax.errors import UserError

MODULE = """
import os
import random
import sys

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.wrappers import NormalizeObservation, TimeLimit

TWO, ONE = Box(-9, 9, (2,), np.float32), Box(-9, 9, (), np.float32)
SAID, REWARD = {}, 1.0
TOUCHED = os.environ.get("TOUCHED", "")


class Odd(gymnasium.Env):
    observation_space = action_space = TWO
    seen = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen, {}

    def step(self, action):
        print("a step")
        return self.seen, REWARD, False, False, SAID

    def set_state(self, qpos, qvel):
        self.put = qpos

    def close(self):
        if TOUCHED:
            open(TOUCHED, "a").close()


def make(kind=Odd, **given):
    env = kind()
    for key, value in given.items():
        setattr(env, key, value)
    return TimeLimit(env, 5)


def make_plain():
    print("made")
    return make()


def make_drawn(render_mode=None):
    class Drawn(Odd):
        def render(self):
            return None if render_mode is None else np.zeros((4, 5, 3), np.uint8)
    return make(Drawn)


def make_exit():
    sys.exit("no\\nlicence")


def make_assert():
    assert SAID


def make_normalised():
    return NormalizeObservation(make())


def make_frozen():
    env = NormalizeObservation(make())
    env.update_running_mean = False
    return env


def make_alike():
    return make(observation_space=Dict({"a/b": TWO, "a": Dict({"b": ONE})}))


def make_void():
    return make(observation_space=Dict({}))


def make_idle():
    return make(action_space=Box(-1, 1, (0,), np.float32))


def make_slashes():
    space = Dict({"walker/joints": TWO, "walker": Dict({"mass": ONE}), "b": ONE})
    seen = {"walker/joints": np.array([2.0, 3.0]), "walker": {"mass": 4.0}, "b": 1.0}
    return make(observation_space=space, seen=seen)


def make_wide():
    return make(seen=np.zeros(3))


def make_unseeded():
    class Unseeded(Odd):
        def reset(self):
            return self.seen, {}
    return make(Unseeded)


def make_drawing():
    class Drawing(Odd):
        def step(self, action):
            return self.seen, random.random(), False, False, {}
    return make(Drawing)


def make_crash():
    class Crash(Odd):
        def step(self, action):
            raise OverflowError("too\\nfast")
    return make(Crash)
"""


@pytest.fixture(autouse=True)
def lab(tmp_path, monkeypatch):
    """The module as if somebody had installed it; workers, which are other processes, see it too."""
    (tmp_path / "odd_lab.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    yield tmp_path
    sys.modules.pop("odd_lab", None)


def made(function):
    name = EnvName.parse(f"odd_lab:{function}")
    return Family.of(name).make(name)


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        ("make_exit", "cannot be made .SystemExit: no licence"),
        ("make_assert", "cannot be made .AssertionError in odd_lab.py, line [0-9]+.$"),
        ("make_normalised", "its wrapper NormalizeObservation changes with all that it has seen"),
        ("make_alike", "two parts of its observations are called alike .a/b"),
        ("make_void", "its observations have no number"),
        ("make_idle", r"its actions are a box of shape \(0,\), without a number"),
    ],
)
def test_what_cannot_be_taken_is_one_line(function, hint):
    with pytest.raises(UserError, match=hint) as caught:
        made(function)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        ("make_unseeded", "does not begin .TypeError: .*unexpected keyword argument 'seed'"),
        ("make_wide", "^odd_lab:make_wide: an observation is 3 wide, its space says 2$"),
    ],
)
def test_a_reset_that_goes_wrong_is_one_line_without_a_traceback(function, hint, capfd):
    with pytest.raises(UserError, match=hint) as caught:
        EnvPool(f"odd_lab:{function}", 1, 1)
    assert "\n" not in str(caught.value) and capfd.readouterr().err == ""


def test_a_wrapper_that_has_stopped_learning_is_taken():
    assert made("make_frozen").reset(0).shape == (2,)


def test_keys_of_dictionaries_may_have_slashes():
    env = made("make_slashes")
    assert [key for key, _ in env.parts.widths] == ["b", "walker/mass", "walker/joints"]
    assert env.reset(0).tolist() == [1.0, 4.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("said", "success"),
    [
        ({}, None),
        ({"success": None}, None),
        ({"success": None, "is_success": True}, 1.0),
        ({"success": np.bool_(False), "is_success": True}, 0.0),
        ({"success": np.array([True])}, 1.0),
        ({"success": np.float32(0.5)}, 0.5),
        ({"success": 7}, 1.0),
        ({"success": -1}, 0.0),
    ],
)
def test_success_is_what_stands_in_info(said, success):
    env = made("make_plain")
    sys.modules["odd_lab"].SAID = said
    env.reset(0)
    assert env.step(np.zeros(2))[3] == ({} if success is None else {"success": success})


@pytest.mark.parametrize("said", [np.nan, "yes", np.array([True, False]), {"at": 1}])
def test_success_that_is_no_number_is_named(said):
    env = made("make_plain")
    sys.modules["odd_lab"].SAID = {"success": said}
    env.reset(0)
    with pytest.raises(UserError, match="odd_lab:make_plain: its success is .* not one number"):
        env.step(np.zeros(2))


@pytest.mark.parametrize("reward", [2.5, np.float32(2.5), np.array([2.5]), np.array(2.5)])
def test_a_reward_is_one_number(reward):
    env = made("make_plain")
    sys.modules["odd_lab"].REWARD = reward
    env.reset(0)
    assert env.step(np.zeros(2))[1] == 2.5 and type(env.step(np.zeros(2))[1]) is float
    sys.modules["odd_lab"].REWARD = np.zeros(2)
    with pytest.raises(UserError, match="its reward is .* not one number"):
        env.step(np.zeros(2))


def test_workers_close_their_environments(lab, monkeypatch):
    monkeypatch.setenv("TOUCHED", str(lab / "closed"))
    with EnvPool("odd_lab:make_plain", 1, 1) as pool:
        pool.reset([0], [3])
        assert not (lab / "closed").exists()
    assert (lab / "closed").exists()


def test_numbers_that_steps_draw_do_not_depend_on_who_is_played_beside():
    chunk = np.zeros((1, 3, 2), np.float32)
    with EnvPool("odd_lab:make_drawing", 2, 1) as pool:
        pool.reset([0], [7])
        alone = pool.step([0], chunk)[1][0].reward
        pool.reset([0, 1], [7, 8])
        beside = pool.step([0, 1], np.repeat(chunk, 2, axis=0))[1][0].reward
        pool.reset([0, 1], [8, 7])
        elsewhere = pool.step([0, 1], np.repeat(chunk, 2, axis=0))[1][1].reward
    assert alone == beside == elsewhere


def test_a_film_needs_an_environment_that_draws():
    """A function is given `render_mode` if it takes it."""
    name = EnvName.parse("odd_lab:make_drawn")
    assert Family.of(name).rendered(name, 240).render().shape == (4, 5, 3)
    name = EnvName.parse("odd_lab:make_plain")
    with pytest.raises(UserError, match="odd_lab:make_plain: its render.. gives no picture"):
        Family.of(name).rendered(name, 240).render()


@pytest.mark.parametrize("function", ["make_plain", "make_crash"])
def test_what_an_environment_prints_or_raises_leaves_the_output_alone(lab, function, capsys):
    zeros, halves = np.zeros((12, 2), np.float32), np.full((12, 2), 0.5, np.float32)
    np.savez(
        lab / "still.npz",
        observations=zeros,
        actions=halves,
        terminals=np.arange(12) % 6 == 5,
        qpos=zeros,
        qvel=zeros,
    )
    words = ["verify", "--replay", str(lab / "still.npz"), f"--env=odd_lab:{function}"]
    if function == "make_plain":
        cli.main(words)
        said = capsys.readouterr()
        assert json.loads(said.out)["sound"] and "made\na step" in said.err
        return
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    assert "odd_lab:make_crash raised OverflowError: too fast\n" in capsys.readouterr().err
