"""Any dataset: converted, trained on, and what is refused on the way."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import bad_recordings
import jax
import numpy as np
import pytest
import recordings
from conftest import ROOT, command, recorded

import qgf_jax
from qgf_jax.data import load
from qgf_jax.data.convert import convert
from qgf_jax.data.converted import Manifest
from qgf_jax.data.formats import Rows
from qgf_jax.data.load import Loaded
from qgf_jax.data.readers.recording import Choice, Recording
from qgf_jax.data.shards import Source
from qgf_jax.envs.families import EnvName
from qgf_jax.errors import UserError

PLAYED = recordings.episodes(count=6, length=8)
GAMMA = 0.9


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def test_terminated_ends_the_return_and_truncated_bootstraps(tmp_path):
    """Returns of two steps by hand, for every transition of an episode of each kind."""
    recordings.write_minari("x-v0", PLAYED)
    convert("minari:x-v0", tmp_path)
    dataset = Loaded.of(recorded(tmp_path, "x-v0", **{"data.n_step": 2})).take()
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
    whole, less = (Loaded.of(recorded(tmp_path, name)).take() for name in ("x-v0", "y"))
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
    loaded = Loaded.of(recorded(tmp_path, "lab-x-v0"))
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


def test_validation_data_of_others_are_not_taken_for_these(tmp_path):
    path = recordings.write_robomimic(tmp_path / "lift.hdf5", PLAYED)
    data, _ = convert(f"robomimic:{path}", tmp_path / "data", name="mine")
    shutil.rmtree(data)
    np.savez(tmp_path / "x.npz", **recordings.steps_columns(PLAYED))
    with pytest.raises(UserError, match="mine-val is there already"):
        convert(tmp_path / "x.npz", tmp_path / "data", name="mine")


def test_bounds_that_are_not_the_environments_are_another_unit():
    """As of data that were recorded behind a wrapper that rescales actions."""
    name, low = types.SimpleNamespace(full="Arm-v0"), np.array([-2.0, 0.0])
    labels = types.SimpleNamespace(name=name, bounds=(low, low + 4))

    def bounds(said):
        return load._bounds(labels, types.SimpleNamespace(about=said, path="data/x"))

    assert bounds({}) is labels.bounds
    assert bounds({"bounds": [[-2.0, 0.0], [2.0, 4.0]]}) is labels.bounds
    with pytest.raises(UserError, match="from -1 to 1, and Arm-v0 takes them from -2, 0 to 2, 4"):
        bounds({"bounds": [[-1.0, -1.0], [1.0, 1.0]]})


def test_steps_in_an_npz_file_are_told_by_their_keys(tmp_path):
    np.savez(tmp_path / "x.npz", **recordings.steps_columns(PLAYED))
    convert(tmp_path / "x.npz", tmp_path / "data")
    dataset = Loaded.of(recorded(tmp_path / "data", "x")).take()
    assert len(dataset.action) == sum(len(played.actions) for played in PLAYED)
    with pytest.raises(UserError, match=r"key 'terminated' .*run `qgf convert npz:"):
        Loaded.of(recorded(tmp_path, "x"))


@pytest.mark.whole(but_every=2)
@pytest.mark.parametrize("form", ["robomimic", "lerobot"])
def test_from_a_recording_to_a_sealed_run_on_the_command_line(form, tmp_path, capsys):
    """And to actions in the recording's units, which are far from [-1, 1]."""
    played = [p._replace(actions=50 + 3 * p.actions) for p in PLAYED]
    if form == "robomimic":
        place = recordings.write_robomimic(tmp_path / "lift.hdf5", played)
    else:
        place = recordings.write_lerobot(tmp_path / "lift", played)
    data, folder = tmp_path / "data", tmp_path / "run"
    assert command("convert", f"{form}:{place}", f"--out={data}") == 0
    words = [f"--config={ROOT}/tests/tiny_config.py", "--config.env=data:lift"]
    words += [f"--config.data.dir={data}", "--config.data.chunk=2"]
    assert command("train", *words, f"--workdir={folder}") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "actions leave [-1, 1] in row 0" in said and "data.action_scale" in said
    assert not folder.exists()
    words += ["--config.data.action_scale=std"]
    assert command("train", "--dry_run", *words) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["observation"], described["action"]) == (3, 2)
    assert command("train", *words, f"--workdir={folder}") == 0
    assert command("verify", str(folder)) == 0
    capsys.readouterr()
    metrics = (folder / "metrics.jsonl").read_text()
    assert ("validation" in metrics) == (form == "robomimic")
    assert command("evaluate", f"--workdir={folder}", "--methods=reference") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "data without an environment" in said[0]
    assert not (folder / "episodes.jsonl").exists()
    policy = qgf_jax.load_policy(folder, method="reference")
    chunk = policy(np.zeros((50, 3), np.float32), jax.random.key(0))
    assert chunk.shape == (50, 2, 2) and 40 < chunk.mean() < 60


@pytest.mark.parametrize("case", bad_recordings.BAD)
def test_a_bad_source_leaves_nothing_behind(case, tmp_path, capsys):
    make, words = bad_recordings.BAD[case]
    out = tmp_path / "out"
    assert command("convert", make(tmp_path), f"--out={out}") == 2
    said = capsys.readouterr().err
    *before, error = said.splitlines()
    assert error.startswith("qgf: error: ") and words in error
    assert not any(line.startswith(("qgf", "Traceback")) for line in before)
    assert not out.exists() or not [*out.iterdir()]


@pytest.mark.parametrize("case", bad_recordings.GOOD)
def test_an_odd_source_is_converted(case, tmp_path, capsys):
    assert command("convert", bad_recordings.GOOD[case](tmp_path), f"--out={tmp_path / 'out'}") == 0
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
    whole, sliced = (Loaded.of(recorded(tmp_path, name)) for name in ("whole", "sliced"))
    for name, array in whole.dataset._asdict().items():
        np.testing.assert_array_equal(array, getattr(sliced.dataset, name))
    assert whole.fingerprint["sha256"] == sliced.fingerprint["sha256"]
    streamed = {"data.mode": "streamed", "data.block": 30, "data.window": 1}
    stream = Loaded.of(recorded(tmp_path, "sliced", **streamed)).dataset
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


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = recordings.write_hdf5(tmp_path / "y.hdf5", recordings.d4rl_columns(PLAYED))
    checked = Recording.checked

    def changing(self):
        yield from checked(self)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(Recording, "checked", changing)
    with pytest.raises(UserError, match="y.hdf5: it was altered while it was read"):
        convert(f"d4rl:{path}", tmp_path / "out")
    assert not [*(tmp_path / "out").iterdir()]


def test_a_part_of_the_episodes_is_another_dataset(tmp_path):
    place = f"lerobot:{recordings.write_lerobot(tmp_path / 'lift', PLAYED)}"
    sources = {
        Manifest.read(
            convert(place, tmp_path, name=f"x{split}", choice=Choice(split=split))[0]
        ).record["source"]
        for split in ("", "train", "test")
    }
    assert len(sources) == 3


@pytest.mark.parametrize("name", ["..", "a/b", ".x", "-x", "x" * 300, "a\0b"])
def test_a_name_is_that_of_one_folder(name, tmp_path, capsys):
    recordings.write_minari("x-v0", PLAYED)
    assert command("convert", "minari:x-v0", f"--out={tmp_path / 'out'}", f"--name={name}") == 2
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
        assert command("convert", str(place), f"--out={tmp_path / 'out'}") == 2
        assert f"say what format it has, {format_}" in capsys.readouterr().err


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
    assert command("convert", "zarr:x", f"--out={tmp_path}") == 2
    said = capsys.readouterr().err
    assert "FORMAT:PLACE with a format of d4rl, lerobot, minari, npz, robomimic" in said
