"""Any dataset: converted, trained on, and what is refused on the way."""

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import bad_recordings
import jax
import numpy as np
import pytest
import recordings
from conftest import ROOT, tiny

import qgf_jax
from qgf_jax import cli
from qgf_jax import config as configs
from qgf_jax.data.convert import convert
from qgf_jax.data.converted import Manifest
from qgf_jax.data.formats import Rows
from qgf_jax.data.load import Loaded
from qgf_jax.data.readers.recording import Choice, Episode
from qgf_jax.data.shards import Source
from qgf_jax.envs.families import EnvName
from qgf_jax.errors import UserError

PLAYED = recordings.episodes(count=6, length=8)
GAMMA = 0.9


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def options(folder, name, **changes):
    """A tiny config for data without an environment."""
    return tiny(
        **{
            "env": f"data:{name}",
            "data.dir": str(folder),
            "data.chunk": 1,
            "data.discount": GAMMA,
            **changes,
        }
    )


def test_terminated_ends_the_return_and_truncated_bootstraps(tmp_path):
    """Returns of two steps by hand, for every transition of an episode of each kind."""
    recordings.write_minari("x-v0", PLAYED)
    convert("minari:x-v0", tmp_path)
    dataset = Loaded.of(options(tmp_path, "x-v0", **{"data.n_step": 2})).take()
    transition = 0
    for played in PLAYED:
        length = len(played.actions)
        for t in range(length):
            inside = min(2, length - t)
            reward = sum(GAMMA**j * played.rewards[t + j] for j in range(inside))
            ends = played.terminated and t + inside == length
            np.testing.assert_allclose(dataset.reward[transition], reward, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(dataset.discount[transition], 0 if ends else GAMMA**2)
            assert dataset.weight[transition] == (t + 2 <= length)
            after = dataset.obs[dataset.next_row[transition]]
            np.testing.assert_array_equal(after, played.observations[t + inside])
            transition += 1
    assert transition == len(dataset.action)


def test_minari_and_d4rl_of_the_same_episodes_are_one_dataset_but_for_what_d4rl_lacks(tmp_path):
    recordings.write_minari("x-v0", PLAYED)
    path = recordings.write_hdf5(tmp_path / "y.hdf5", recordings.d4rl_columns(PLAYED))
    convert("minari:x-v0", tmp_path)
    convert(f"d4rl:{path}", tmp_path)
    whole, less = (Loaded.of(options(tmp_path, name)).take() for name in ("x-v0", "y"))
    lengths = [len(played.actions) for played in PLAYED]
    last = np.cumsum(lengths) - 1
    lost = [i for i, played in zip(last, PLAYED, strict=True) if not played.terminated]
    kept = np.delete(np.arange(sum(lengths)), lost)
    assert len(less.action) == len(kept) == sum(lengths) - 3
    for name in ("action", "reward", "discount", "weight"):
        np.testing.assert_array_equal(getattr(whole, name)[kept], getattr(less, name))
    for rows in ("row", "next_row"):
        ours, theirs = (x.obs[getattr(x, rows)] for x in (whole, less))
        same = (ours[kept] == theirs).all(axis=1)
        # What follows a transition that terminated is discounted to nothing, and D4RL has it not.
        assert (same | (less.discount == 0)).all()


def test_a_manifest_says_where_the_data_come_from(tmp_path):
    scores = {"ref_min_score": 1.0, "ref_max_score": 3.0}
    recordings.write_minari("lab/x-v0", PLAYED, metadata=scores)
    (folder,) = convert("minari:lab/x-v0", tmp_path)
    about = Manifest.read(folder).record["about"]
    assert folder.name == "lab-x-v0" and about["format"] == "minari"
    assert about["bounds"] == [[-1, -1], [1, 1]] and about["references"] == [1.0, 3.0]
    assert Source.open(folder).fingerprint["references"] == [1.0, 3.0]
    loaded = Loaded.of(options(tmp_path, "lab-x-v0"))
    assert loaded.fingerprint["references"] == [1.0, 3.0]
    assert len(Manifest.read(folder).record["source"]) == 64


def test_masks_of_robomimic_become_data_and_validation_data(tmp_path):
    path = recordings.write_robomimic(tmp_path / "lift.hdf5", PLAYED)
    data, validation = convert(f"robomimic:{path}", tmp_path / "data", name="mine")
    assert (data.name, validation.name) == ("mine", "mine-val")
    counts = [Manifest.read(folder).record["trajectories"] for folder in (data, validation)]
    assert counts == [len(PLAYED) - 1, 1]
    (alone,) = convert(f"robomimic:{path}", tmp_path / "alone", choice=Choice(split="train"))
    assert Manifest.read(alone).record["trajectories"] == len(PLAYED) - 1


def test_steps_in_an_npz_file_are_told_by_their_keys(tmp_path):
    np.savez(tmp_path / "x.npz", **recordings.steps_columns(PLAYED))
    convert(tmp_path / "x.npz", tmp_path / "data")
    dataset = Loaded.of(options(tmp_path / "data", "x")).take()
    assert len(dataset.action) == sum(len(played.actions) for played in PLAYED)
    with pytest.raises(UserError, match=r"key 'terminated' .*run `qgf convert npz:"):
        Loaded.of(options(tmp_path, "x"))


def test_data_from_arrays_are_those_of_a_file(tmp_path):
    columns = recordings.steps_columns(PLAYED)
    np.savez(tmp_path / "x.npz", **columns)
    convert(tmp_path / "x.npz", tmp_path / "data")
    file = Loaded.of(options(tmp_path / "data", "x"))
    arrays = qgf_jax.Dataset.from_arrays(**columns)
    memory = Loaded.of(options(tmp_path, "x"), given=arrays)
    for name, array in file.take()._asdict().items():
        np.testing.assert_array_equal(array, getattr(memory.dataset, name))
    episodes = [Episode(p.observations, p.actions, p.rewards, p.terminated) for p in PLAYED]
    again = Loaded.of(
        options(tmp_path, "x"), given=qgf_jax.Dataset.from_episodes(iter(episodes), name="arrays")
    )
    assert again.fingerprint == memory.fingerprint


def test_arrays_have_no_validation_data(tmp_path, monkeypatch):
    """Not those of a file that happens to lie where the program was started."""
    np.savez(tmp_path / "arrays-val.npz", **{"observations": np.zeros((2, 1))})
    monkeypatch.chdir(tmp_path)
    arrays = qgf_jax.Dataset.from_arrays(**recordings.steps_columns(PLAYED))
    assert Loaded.of(options(tmp_path, "x"), given=arrays).validation is None


def test_bounds_of_arrays_are_those_of_the_networks():
    columns = recordings.steps_columns(PLAYED)
    columns["actions"] = 2 + 3 * columns["actions"]
    arrays = qgf_jax.Dataset.from_arrays(**columns, bounds=(-1, [5, 5]))
    loaded = Loaded.of(options("", "x"), given=arrays)
    assert (loaded.spec["action_shift"], loaded.spec["action_scale"]) == ((2, 2), (3, 3))
    np.testing.assert_allclose(3 * loaded.dataset.action + 2, columns["actions"], atol=1e-4)


def test_the_page_of_ones_own_data_runs(tmp_path, monkeypatch):
    """With fewer steps. What the user writes to train is at most 15 lines."""
    text = (ROOT / "docs" / "your_data.md").read_text()
    data, training = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(training.strip().splitlines()) <= 15 and "steps=20_000" in training
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(data + training.replace("steps=20_000", "steps=3"), names)  # noqa: S102 - a page of ours
    assert names["chunk"].shape == (2, 1)
    assert run("verify", "runs/points") == 0
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
        ("bounds", ([-1, -1, -1], [1, 1, 1]), r"bounds have shapes \(3,\) and \(3,\)"),
        ("next_observations", columns["observations"], "not in the order of time"),
    ):
        with pytest.raises(UserError, match=words):
            qgf_jax.Dataset.from_arrays(**{**columns, key: value}).source()


REWARDS = """
def distance(rows):
    return -abs(rows.observations[:, 0] - rows.actions[:, 0])


def short(rows):
    return [0.0]


def broken(rows):
    return rows.nothing


def infinite(rows):
    return rows.observations[:, 0] * float("inf")


NUMBER = 3
"""


def test_rewards_by_a_function_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    folder = recordings.write_lerobot(tmp_path / "lift", PLAYED)
    convert(f"lerobot:{folder}", tmp_path / "data")
    config = options(tmp_path / "data", "lift", **{"data.rewards": "my_rewards:distance"})
    dataset = Loaded.of(config).take()
    np.testing.assert_allclose(
        dataset.reward, -np.abs(dataset.obs[dataset.row, 0] - dataset.action[:, 0]), atol=1e-4
    )
    assert (dataset.discount == 0).sum() == sum(played.terminated for played in PLAYED)
    for name, words in (
        ("my_rewards:short", "gave an array of shape (1,) for"),
        ("my_rewards:broken", "failed on"),
        ("my_rewards:infinite", "for row 0 of"),
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
    loaded = Loaded.of(options(tmp_path, "lift", **changes))
    for dataset, of in ((loaded.dataset, played[:-1]), (loaded.validation, played[-1:])):
        expected = np.concatenate([p.actions[:, 0] for p in of])
        np.testing.assert_allclose(dataset.reward, expected, rtol=1e-6)
        assert np.abs(dataset.action).max() < 3


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
        Loaded.of(options(tmp_path / "data", "lift"))


@pytest.mark.parametrize("form", ["robomimic", "lerobot"])
def test_from_a_recording_to_a_sealed_run_on_the_command_line(form, tmp_path, capsys):
    """And to actions in the recording's units, which are far from [-1, 1]."""
    played = [p._replace(actions=50 + 3 * p.actions) for p in PLAYED]
    if form == "robomimic":
        place = recordings.write_robomimic(tmp_path / "lift.hdf5", played)
    else:
        place = recordings.write_lerobot(tmp_path / "lift", played)
    data, folder = tmp_path / "data", tmp_path / "run"
    assert run("convert", f"{form}:{place}", f"--out={data}") == 0
    words = [f"--config={ROOT}/tests/tiny_config.py", "--config.env=data:lift"]
    words += [f"--config.data.dir={data}", "--config.data.chunk=2"]
    assert run("train", *words, f"--workdir={folder}") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "actions leave [-1, 1] in row 0" in said and "data.action_scale" in said
    assert not folder.exists()
    words += ["--config.data.action_scale=std"]
    assert run("train", "--dry_run", *words) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["observation"], described["action"]) == (3, 2)
    assert run("train", *words, f"--workdir={folder}") == 0
    assert run("verify", str(folder)) == 0
    capsys.readouterr()
    metrics = (folder / "metrics.jsonl").read_text()
    assert ("validation" in metrics) == (form == "robomimic")
    assert run("evaluate", f"--workdir={folder}", "--methods=reference") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "data without an environment" in said[0]
    assert not (folder / "episodes.jsonl").exists()
    policy = qgf_jax.load_policy(folder, method="reference")
    chunk = policy(np.zeros((50, 3), np.float32), jax.random.key(0))
    assert chunk.shape == (50, 2, 2) and 40 < chunk.mean() < 60


def run(*arguments):
    try:
        cli.main([*arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.mark.parametrize("case", bad_recordings.BAD)
def test_a_bad_source_leaves_nothing_behind(case, tmp_path, capsys):
    make, words = bad_recordings.BAD[case]
    out = tmp_path / "out"
    assert run("convert", make(tmp_path), f"--out={out}") == 2
    said = capsys.readouterr().err
    *before, error = said.splitlines()
    assert error.startswith("qgf: error: ") and words in error
    assert not any(line.startswith(("qgf", "Traceback")) for line in before)
    assert not out.exists() or not [*out.iterdir()]


@pytest.mark.parametrize("case", bad_recordings.GOOD)
def test_an_odd_source_is_converted(case, tmp_path, capsys):
    assert run("convert", bad_recordings.GOOD[case](tmp_path), f"--out={tmp_path / 'out'}") == 0
    folders = [*map(Path, capsys.readouterr().out.split())]
    assert not Manifest.read(folders[0]).why_invalid()
    trajectories = [Manifest.read(folder).record["trajectories"] for folder in folders]
    assert sum(trajectories) == len(bad_recordings.PLAYED)


def test_a_killed_conversion_keeps_what_is_whole_and_goes_on(tmp_path):
    place = f"robomimic:{recordings.write_robomimic(tmp_path / 'lift.hdf5', PLAYED)}"
    words = [sys.executable, "-m", "qgf_jax", "convert", place, f"--out={tmp_path / 'data'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "QGF_CRASH_AT": "converted:1"}
    assert subprocess.run(words, env=environment, capture_output=True).returncode == 137
    (validation,) = (tmp_path / "data").iterdir()
    before = {path: path.stat().st_mtime_ns for path in validation.iterdir()}
    assert [folder.name for folder in convert(place, tmp_path / "data")] == ["lift", "lift-val"]
    assert {path: path.stat().st_mtime_ns for path in validation.iterdir()} == before
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"lift", "lift-val"}


def test_what_is_cut_short_does_not_count_and_is_written_anew(tmp_path, monkeypatch):
    """Even where nobody could clear up."""
    recordings.write_minari("x-v0", PLAYED)
    monkeypatch.setattr("qgf_jax.data.convert._SLICE", 20)
    real, calls = Rows.joined, []

    def dies(pieces):
        if calls.append(0) or len(calls) == 2:
            raise KeyboardInterrupt
        return real(pieces)

    with monkeypatch.context() as patch:
        patch.setattr("qgf_jax.data.converted.shutil.rmtree", lambda *_, **__: None)
        patch.setattr(Rows, "joined", dies)
        with pytest.raises(KeyboardInterrupt):
            convert("minari:x-v0", tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == [".x-v0.partial"]
    convert("minari:x-v0", tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["x-v0"]
    with pytest.raises(UserError, match="is there already"):
        convert("minari:x-v0", tmp_path / "data")


def test_slices_are_one_dataset_whole_or_streamed(tmp_path, monkeypatch):
    recordings.write_minari("x-v0", PLAYED)
    convert("minari:x-v0", tmp_path, name="whole")
    monkeypatch.setattr("qgf_jax.data.convert._SLICE", 20)
    (folder,) = convert("minari:x-v0", tmp_path, name="sliced")
    assert [*Manifest.read(folder).record["slices"].values()] == [30, 25, 14]
    whole, sliced = (Loaded.of(options(tmp_path, name)) for name in ("whole", "sliced"))
    for name, array in whole.dataset._asdict().items():
        np.testing.assert_array_equal(array, getattr(sliced.dataset, name))
    assert whole.fingerprint["sha256"] == sliced.fingerprint["sha256"]
    streamed = {"data.mode": "streamed", "data.block": 30, "data.window": 1}
    stream = Loaded.of(options(tmp_path, "sliced", **streamed)).dataset
    blocks = [stream.read(i) for i in range(len(stream))]
    seen = {(*d.obs[r], x) for d in blocks for r, x in zip(d.row, d.reward, strict=True)}
    data = whole.dataset
    assert seen == {(*data.obs[r], x) for r, x in zip(data.row, data.reward, strict=True)}


def test_the_same_file_read_otherwise_is_another_dataset(tmp_path):
    place = f"lerobot:{recordings.write_lerobot(tmp_path / 'lift', PLAYED, success=False)}"
    made = [
        Manifest.read(convert(place, tmp_path, name=ends, choice=Choice(ends=ends))[0]).record
        for ends in ("terminated", "truncated")
    ]
    about = made[0]["about"]
    assert made[0]["source"] != made[1]["source"] and about["sha256"] == made[1]["about"]["sha256"]
    assert about["source"] == place and about["ends"] == "terminated"
    assert about["observations"] == [["observation.state", 3]] and about["version"] == "v3.0"


@pytest.mark.parametrize("name", ["..", "a/b", ".x", "-x", "x" * 300, "a\0b"])
def test_a_name_is_that_of_one_folder(name, tmp_path, capsys):
    recordings.write_minari("x-v0", PLAYED)
    assert run("convert", "minari:x-v0", f"--out={tmp_path / 'out'}", f"--name={name}") == 2
    said = capsys.readouterr().err
    assert "is no name of a folder: choose another --name" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_place_without_its_format_is_told_which_it_may_be(tmp_path, capsys):
    recordings.write_minari("x-v0", PLAYED)
    places = {
        recordings.write_robomimic(tmp_path / "lift.hdf5", PLAYED): "d4rl:FILE or robomimic:FILE",
        recordings.write_lerobot(tmp_path / "lift", PLAYED): "lerobot:FOLDER",
        tmp_path / "minari" / "x-v0": "minari:FOLDER",
    }
    for place, format_ in places.items():
        assert run("convert", str(place), f"--out={tmp_path / 'out'}") == 2
        assert f"say what format it has, {format_}" in capsys.readouterr().err


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


@pytest.mark.parametrize("name", ["data:", "data:.x", "data:../x", "data:a/b"])
def test_data_without_an_environment_have_a_name(name):
    with pytest.raises(UserError, match="names no data: write data:NAME"):
        EnvName.parse(name)


def test_any_name_of_data_comes_back_whole():
    for text in ("data:lift", "data:lift-task3", "data:lab-hop-v0"):
        name = EnvName.parse(text)
        assert (name.full, name.label, name.tasks) == (text, text, (1,))
        assert EnvName.parse(name.full) == name


def test_the_extras_of_formats_are_tools_of_development_too():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    for extra in ("minari", "hdf5", "lerobot"):
        assert {*extras[extra].split()} <= {*extras["dev"].split()}, extra


def test_an_unknown_format_is_named(tmp_path, capsys):
    assert run("convert", "zarr:x", f"--out={tmp_path}") == 2
    said = capsys.readouterr().err
    assert "FORMAT:PLACE with a format of d4rl, lerobot, minari, npz, robomimic" in said
