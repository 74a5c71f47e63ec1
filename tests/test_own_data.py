"""Data and rewards of a user's own: arrays in memory, and a function in place of the file's rewards."""

import json
import re

import numpy as np
import pytest
import recordings
from conftest import ROOT, command, recorded, tiny

import qgf_jax
from qgf_jax import config as configs
from qgf_jax.data.action_scale import ActionScale
from qgf_jax.data.convert import convert
from qgf_jax.data.load import Loaded
from qgf_jax.data.readers.recording import Episode
from qgf_jax.data.rewards import own_rewards
from qgf_jax.errors import UserError

PLAYED = recordings.episodes(count=6, length=8)


def test_data_from_arrays_are_those_of_a_file(tmp_path):
    columns = recordings.steps_columns(PLAYED)
    np.savez(tmp_path / "x.npz", **columns)
    convert(tmp_path / "x.npz", tmp_path / "data")
    file = Loaded.of(recorded(tmp_path / "data", "x"))
    arrays = qgf_jax.Dataset.from_arrays(**columns)
    memory = Loaded.of(recorded(tmp_path, "x"), given=arrays)
    for name, array in file.take()._asdict().items():
        np.testing.assert_array_equal(array, getattr(memory.dataset, name))
    episodes = [Episode(p.observations, p.actions, p.rewards, p.terminated) for p in PLAYED]
    again = Loaded.of(
        recorded(tmp_path, "x"), given=qgf_jax.Dataset.from_episodes(iter(episodes), name="arrays")
    )
    assert again.fingerprint == memory.fingerprint


def test_arrays_with_other_rewards_are_other_data():
    columns = recordings.steps_columns(PLAYED)
    one, other = (
        qgf_jax.Dataset.from_arrays(**{**columns, "rewards": columns["rewards"] + shift})
        for shift in (0, 1)
    )
    identity = one.source().fingerprint["sha256"]
    assert identity == one.source().fingerprint["sha256"] != other.source().fingerprint["sha256"]


def test_arrays_have_the_rewards_that_they_come_with(tmp_path, monkeypatch):
    """Whatever environment they are to be played in."""
    rng = np.random.default_rng(0)
    columns = {key: rng.uniform(-1, 1, (20, 2)) for key in ("observations", "actions")}
    ends = {"terminated": np.arange(20) == 19, "truncated": np.arange(20) == 9}
    arrays = qgf_jax.Dataset.from_arrays(**columns, rewards=np.arange(20), **ends)
    dataset = Loaded.of(tiny(**{"data.chunk": 1}), given=arrays).take()
    np.testing.assert_array_equal(dataset.reward, np.delete(np.arange(20), 9))
    with pytest.raises(UserError, match="the dataset is a dict: make one with qgf_jax.Dataset"):
        qgf_jax.pretrain(tiny(), tmp_path / "run", columns)
    assert not (tmp_path / "run").exists()


def test_arrays_have_no_validation_data(tmp_path, monkeypatch):
    """Not those of a file that happens to lie where the program was started."""
    np.savez(tmp_path / "arrays-val.npz", **{"observations": np.zeros((2, 1))})
    monkeypatch.chdir(tmp_path)
    arrays = qgf_jax.Dataset.from_arrays(**recordings.steps_columns(PLAYED))
    assert Loaded.of(recorded(tmp_path, "x"), given=arrays).validation is None


def test_bounds_of_arrays_are_those_of_the_networks():
    columns = recordings.steps_columns(PLAYED)
    columns["actions"] = 2 + 3 * columns["actions"]
    arrays = qgf_jax.Dataset.from_arrays(**columns, bounds=(-1, [5, 5]))
    loaded = Loaded.of(recorded("", "x"), given=arrays)
    assert (loaded.spec["action_shift"], loaded.spec["action_scale"]) == ((2, 2), (3, 3))
    np.testing.assert_allclose(3 * loaded.dataset.action + 2, columns["actions"], atol=1e-4)


@pytest.mark.whole
def test_the_page_of_ones_own_data_runs(tmp_path, monkeypatch):
    """With fewer steps. What the user writes to train is at most 15 lines."""
    text = (ROOT / "docs" / "your_data.md").read_text()
    data, training = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(training.strip().splitlines()) <= 15 and "steps=20_000" in training
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(data + training.replace("steps=20_000", "steps=3"), names)  # noqa: S102 - a page of ours
    assert names["chunk"].shape == (2, 1)
    assert command("verify", "runs/points") == 0
    assert not (tmp_path / "data").exists()
    qgf_jax.pretrain(names["config"].copy_and_resolve_references(), "runs/points", names["dataset"])
    other = names["dataset"].from_arrays(**{**names["steps"], "rewards": np.ones(2000)})
    with pytest.raises(UserError, match="was trained on other data"):
        qgf_jax.pretrain(names["config"], "runs/points", other)


def test_arrays_that_do_not_fit_are_refused_in_one_line():
    columns = recordings.steps_columns(PLAYED)
    for key, value, words in (
        ("rewards", columns["rewards"][:-1], "rewards has"),
        ("terminated", 2 * columns["terminated"], "terminated holds 2"),
        ("rewards", columns["rewards"] * np.nan, "NaN or infinite"),
        ("rewards", columns["rewards"][:, None], "rewards has shape .* must have 1 axis"),
        ("rewards", 0.0, "rewards has shape .* must have 1 axis"),
        ("terminated", columns["terminated"][:, None], "terminated has shape .* must have 1 axis"),
        ("actions", columns["actions"][:, 0], "actions has shape .* must have 2 axes"),
        ("actions", np.zeros_like(columns["actions"]), "actions are all 0"),
        ("observations", columns["observations"].astype(str), "observations has type <U"),
        ("observations", [[1, 2], [3]], "observations is no array of numbers"),
        ("observations", {"a": 1}, "observations has type object"),
        ("next_observations", columns["observations"][:, :2], "next_observations has shape"),
        ("bounds", ([-1, -1, -1], [1, 1, 1]), r"2 wide, bounds have shape \(3,\)"),
        ("bounds", 2, "bounds must be the least and the largest action"),
        ("bounds", (-1,), "bounds must be the least and the largest action"),
        ("bounds", (-1, 0, 1), "bounds must be the least and the largest action"),
        ("bounds", (None, 1), "bounds must be the least and the largest action"),
        ("bounds", (1, -1), "bounds must be the least and the largest action"),
        ("bounds", (np.nan, 1), "bounds must be the least and the largest action"),
        ("rewards", np.ma.masked_less(columns["rewards"], 0), "rewards has masked entries"),
        ("rewards", np.full(len(columns["rewards"]), np.inf, np.float16), "NaN or infinite"),
        ("rewards", np.full(len(columns["rewards"]), 2**62), "larger than 1e"),
        ("next_observations", columns["observations"], "not in the order of time"),
    ):
        with pytest.raises(UserError, match=words):
            qgf_jax.Dataset.from_arrays(**{**columns, key: value}).source()


def test_bounds_may_be_an_array():
    """As may be the lists of an episode."""
    columns = recordings.steps_columns(PLAYED)
    arrays = qgf_jax.Dataset.from_arrays(**columns, bounds=np.array([[-1, -2], [1, 2]]))
    assert arrays.source().about["bounds"] == [[-1, -2], [1, 2]]
    one = PLAYED[0]
    lists = Episode(*(array.tolist() for array in one[:3]), one.terminated)
    rows = qgf_jax.Dataset.from_episodes([lists]).source().read(0, 9)
    np.testing.assert_array_equal(rows.observations, one.observations)


def test_episodes_that_are_none_are_refused_in_one_line():
    one = Episode(*PLAYED[0])
    for given, words in (
        ([tuple(one)], "episode 0 is a tuple"),
        (one.observations, "episode 0 is a ndarray"),
        (3, "are a int"),
        ([one._replace(terminated=np.zeros(8, bool))], "terminated of episode 0 must be one"),
        ([one._replace(terminated="False")], "terminated of episode 0 must be one"),
        ([one._replace(terminated=float("nan"))], "terminated of episode 0 must be one"),
        ([one._replace(actions=[[1], [1, 2]])], "actions is no array"),
        ([one._replace(info={"qpos": 2.0})], "qpos has shape"),
    ):
        with pytest.raises(UserError, match=words):
            qgf_jax.Dataset.from_episodes(given).source()


REWARDS = """
def distance(rows):
    return -abs(rows.observations[:, 0] - rows.actions[:, 0])


def short(rows):
    return [0.0]


def broken(rows):
    return rows.nothing


def changing(rows):
    rows.actions[:] = 0
    return rows.actions[:, 0]


def infinite(rows):
    return rows.observations[:, 0] * float("inf")


NUMBER = 3
"""


def test_rewards_by_a_function_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    folder = recordings.write_lerobot(tmp_path / "lift", PLAYED)
    convert(f"lerobot:{folder}", tmp_path / "data")
    config = recorded(tmp_path / "data", "lift", **{"data.rewards": "my_rewards:distance"})
    dataset = Loaded.of(config).take()
    np.testing.assert_allclose(
        dataset.reward, -np.abs(dataset.obs[dataset.row, 0] - dataset.action[:, 0]), atol=1e-4
    )
    assert (dataset.discount == 0).sum() == sum(played.terminated for played in PLAYED)
    for name, words in (
        ("my_rewards:short", "gave an array of shape (1,) for"),
        ("my_rewards:broken", "failed on"),
        ("my_rewards:infinite", "for row 0 of"),
        ("my_rewards:changing", "is read-only"),
        ("my_rewards:none", "cannot be imported (AttributeError"),
        ("my_rewards:NUMBER", "is no function"),
        ("my_rewards", "is not MODULE:FUNCTION"),
        ("no_module:x", "cannot be imported (ModuleNotFoundError"),
    ):
        with pytest.raises(UserError) as error:
            Loaded.of({**config, "data": {**config["data"], "rewards": name}})
        assert words in str(error.value) and "\n" not in str(error.value)


def test_a_function_of_rewards_sees_the_units_of_the_data(tmp_path, monkeypatch):
    """Whatever the networks take actions for; of validation data too."""
    (tmp_path / "my_tasks.py").write_text("def first(rows):\n    return rows.actions[:, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    played = [p._replace(actions=10 * p.actions + 3) for p in PLAYED]
    path = recordings.write_robomimic(tmp_path / "lift.hdf5", played)
    convert(f"robomimic:{path}", tmp_path)
    changes = {"data.rewards": "my_tasks:first", "data.action_scale": "std"}
    loaded = Loaded.of(recorded(tmp_path, "lift", **changes))
    for dataset, of in ((loaded.dataset, played[:-1]), (loaded.validation, played[-1:])):
        expected = np.concatenate([p.actions[:, 0] for p in of])
        np.testing.assert_allclose(dataset.reward, expected, rtol=1e-6)
        assert np.abs(dataset.action).max() < 3


def test_a_row_is_named_by_its_number_in_all_of_the_data(tmp_path, monkeypatch):
    """Whatever piece of them is read."""
    (tmp_path / "my_gaps.py").write_text("def last(rows):\n    return rows.actions[:, 0] / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    source = qgf_jax.Dataset.from_arrays(**recordings.steps_columns(PLAYED)).source()
    with np.errstate(divide="ignore"), pytest.raises(UserError, match="for row 9 of"):
        own_rewards("my_gaps:last")(source).read(9, 18)
    options = {"action_scale": "bounds", "clip": "auto"}
    scale = ActionScale.of(source, options, (np.full(2, 5.0), np.full(2, 6.0)))
    with pytest.raises(UserError, match="the action in row 9 is"):
        scale.applied(source).read(9, 18)


def test_rewards_of_a_function_are_for_single_tasks():
    config = tiny(critic="dqc", **{"data.rewards": "a:b"})
    with pytest.raises(UserError, match="data.rewards, .* are for single tasks"):
        configs.check(config)


def test_a_function_of_rewards_stands_for_the_tasks_own(maze_data, tmp_path, monkeypatch):
    """Of OGBench's data too, whose states it sees; no row then ends the task."""
    (tmp_path / "my_maze.py").write_text("def x(rows):\n    return rows.info['qpos'][:, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    changes = {"data.dir": str(maze_data), "data.chunk": 1, "data.rewards": "my_maze:x"}
    dataset = Loaded.of(tiny(**changes)).take()
    np.testing.assert_allclose(dataset.reward, dataset.obs[dataset.row, 0], rtol=1e-6)
    assert (dataset.discount == np.float32(0.99)).all()


def test_without_rewards_the_user_is_asked_for_them(tmp_path):
    folder = recordings.write_lerobot(
        tmp_path / "lift", PLAYED, change=lambda i, columns: columns.pop("next.reward")
    )
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"].pop("next.reward")
    path.write_text(json.dumps(info))
    convert(f"lerobot:{folder}", tmp_path / "data")
    with pytest.raises(UserError, match="'rewards' is missing.*data.rewards=MODULE:FUNCTION"):
        Loaded.of(recorded(tmp_path / "data", "lift"))


def test_every_episode_has_the_columns_of_the_first():
    episodes = [Episode(p.observations, p.actions, p.rewards, p.terminated) for p in PLAYED]
    state = {"qpos": np.zeros((len(PLAYED[1].observations), 2))}
    for index, change, words in (
        (1, {"info": state}, r"episode 1: qpos are of shape \(2,\) a row, before it missing"),
        (2, {"rewards": None}, "episode 2: rewards are missing, before it"),
        (3, {"actions": np.zeros((11, 5))}, r"episode 3: actions are of shape \(5,\) a row"),
    ):
        changed = [*episodes]
        changed[index] = changed[index]._replace(**change)
        with pytest.raises(UserError, match=words):
            qgf_jax.Dataset.from_episodes(changed).source()
