"""Other people's formats: the episodes they hold, and what is refused."""

import json

import bad_recordings
import numpy as np
import pytest
import recordings

from qgf_jax.data import readers
from qgf_jax.data.readers.recording import Choice, Episode, Recording
from qgf_jax.errors import UserError

PLAYED = recordings.episodes()
SPARSE = recordings.sparse(PLAYED)


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def check(recording, played, *, lost=False, terminated=True):
    """That a recording has these episodes, but for the last transition of those that were cut off."""
    read = [*recording.checked()]
    assert len(read) == len(played)
    for got, said in zip(read, played, strict=True):
        n = len(said.actions) - (lost and not said.terminated)
        np.testing.assert_array_equal(got.actions, said.actions[:n])
        np.testing.assert_array_equal(got.observations[:-1], said.observations[:n])
        if lost and said.terminated:
            np.testing.assert_array_equal(got.observations[-1], said.observations[n - 1])
        else:
            np.testing.assert_array_equal(got.observations[-1], said.observations[n])
        np.testing.assert_allclose(got.rewards, said.rewards[:n])
        assert got.terminated == said.terminated
    assert len(recording.sha256) == 64


def test_d4rl_without_next_observations_loses_the_last_transition_of_what_was_cut_off(
    tmp_path, capsys
):
    path = recordings.write_hdf5(tmp_path / "hopper.hdf5", recordings.d4rl_columns(PLAYED))
    recording = readers.open_recording(f"d4rl:{path}")
    check(recording, PLAYED, lost=True)
    assert f"{path}: 2 transitions are left out" in capsys.readouterr().err
    assert recording.name == "hopper" and recording.about["observations"] == [["observations", 3]]


def test_d4rl_with_next_observations_has_every_transition(tmp_path, capsys):
    columns = recordings.d4rl_columns(PLAYED, following=True)
    path = recordings.write_hdf5(tmp_path / "hopper.hdf5", columns)
    check(readers.open_recording(f"d4rl:{path}"), PLAYED)
    assert "left out" not in capsys.readouterr().err


def test_observations_that_float32_cannot_hold_are_named(tmp_path, capsys):
    """Of all episodes together, whose constants may differ."""
    columns = recordings.d4rl_columns(PLAYED, following=True)
    for key in ("observations", "next_observations"):
        columns[key] = columns[key].astype(float) * [1, 1e-4, 1] + [0, 1e5, 1e5]
    path = recordings.write_hdf5(tmp_path / "hopper.hdf5", columns)
    [*readers.open_recording(f"d4rl:{path}").checked()]
    assert f"{path}: observation 1: too little spread" in capsys.readouterr().err
    ones = [np.full((2, 1), x) for x in (1e5 + 0.1, 2e5 + 0.1)]
    episodes = [Episode(x, x[:1], None, False) for x in ones]
    [*Recording("x", "x", {}, "", None, lambda: iter(episodes)).checked()]
    assert not capsys.readouterr().err


def test_d4rl_keeps_what_was_running_when_the_file_ended(tmp_path):
    columns = recordings.d4rl_columns(PLAYED)
    columns["timeouts"][-1] = False
    path = recordings.write_hdf5(tmp_path / "hopper.hdf5", columns)
    check(readers.open_recording(f"d4rl:{path}"), PLAYED, lost=True)


def test_d4rl_keeps_the_state_of_the_simulator(tmp_path):
    columns = recordings.d4rl_columns(PLAYED)
    columns["infos"] = {"qpos": columns["observations"][:, :2]}
    path = recordings.write_hdf5(tmp_path / "hopper.hdf5", columns)
    for episode in readers.open_recording(f"d4rl:{path}").checked():
        np.testing.assert_array_equal(episode.info["qpos"], episode.observations[:, :2])


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_minari_has_every_transition_and_its_references(data_format):
    scores = {"ref_min_score": 1.0, "ref_max_score": 3.0}
    recordings.write_minari("lab/hop-v0", PLAYED, data_format=data_format, metadata=scores)
    recording = readers.open_recording("minari:lab/hop-v0")
    check(recording, PLAYED)
    assert recording.name == "lab-hop-v0" and recording.about["references"] == [1.0, 3.0]
    low, high = recording.bounds
    assert low.tolist() == [-1, -1] and high.tolist() == [1, 1]


@pytest.mark.parametrize("scores", [(float("nan"), 1.0), (1.0, float("inf")), (2.0, 2.0), ("1", 3)])
def test_minari_has_no_references_that_are_no_two_numbers(scores):
    names = ("ref_min_score", "ref_max_score")
    recordings.write_minari("hop-v0", PLAYED, metadata=dict(zip(names, scores, strict=True)))
    assert "references" not in readers.open_recording("minari:hop-v0").about


def test_minari_says_which_states_have_no_row_for_each_observation(capsys):
    """Those of the steps alone cannot be told to be before or after them."""
    infos = {"qpos": np.zeros((len(PLAYED[0].actions), 2)), "qvel": np.zeros(7)}
    recordings.write_minari("hop-v0", PLAYED[:1], infos=infos)
    assert [e.info for e in readers.open_recording("minari:hop-v0").checked()] == [{}]
    said = capsys.readouterr().err
    assert "7 observations are not read: qpos of shape (6, 2), qvel of shape (7,)" in said


def test_minari_flattens_dictionaries_by_their_sorted_keys():
    from gymnasium.spaces import Box, Dict

    box = Box(-100, 100, (1,), np.float32)
    space = Dict({"b": box, "a": Dict({"z": box, "y": box})})
    recordings.write_minari(
        "hop-v0",
        PLAYED,
        observation_space=space,
        observe=lambda x: {"b": x[:, 2:], "a": {"y": x[:, :1], "z": x[:, 1:2]}},
    )
    recording = readers.open_recording("minari:hop-v0")
    assert recording.about["observations"] == [["a/y", 1], ["a/z", 1], ["b", 1]]
    check(recording, PLAYED)
    chosen = readers.open_recording("minari:hop-v0", Choice(observations=("b", "a/y")))
    first = next(chosen.checked())
    np.testing.assert_array_equal(first.observations, PLAYED[0].observations[:, [2, 0]])
    with pytest.raises(UserError, match="did you mean 'a/"):
        readers.open_recording("minari:hop-v0", Choice(observations=("a/x",)))


def test_robomimic_has_its_parts_in_order_and_its_masks(tmp_path):
    path = recordings.write_robomimic(tmp_path / "lift.hdf5", SPARSE)
    recording = readers.open_recording(f"robomimic:{path}")
    assert recording.about["observations"] == [["arm", 2], ["object", 1]]
    assert recording.about["environment"] == {"id": "Lift", "control_delta": True}
    check(recording, SPARSE)
    check(readers.open_recording(f"robomimic:{path}", Choice(split="valid")), SPARSE[-1:])
    chosen = readers.open_recording(f"robomimic:{path}", Choice(("object",), "actions_abs"))
    first = next(chosen.checked())
    np.testing.assert_array_equal(first.observations, SPARSE[0].observations[:, 2:])
    np.testing.assert_array_equal(first.actions, 2 * SPARSE[0].actions)


def test_robomimic_without_next_observations_loses_the_last_of_what_was_cut_off(tmp_path):
    path = recordings.write_robomimic(tmp_path / "lift.hdf5", SPARSE, following=False)
    check(readers.open_recording(f"robomimic:{path}"), SPARSE, lost=True)


def test_what_robomimics_last_dones_means_is_said_by_its_reward_or_its_user(tmp_path):
    tree = recordings.robomimic_tree(PLAYED)
    for demo in tree["data"].values():
        demo["dones"][-1] = 1  # as extracted with --done_mode=2, whatever became of the task
    path = recordings.write_hdf5(tmp_path / "lift.hdf5", tree, recordings.ENV_ARGS)
    with pytest.raises(UserError, match="demo_1 has `dones` on its last row alone"):
        [*readers.open_recording(f"robomimic:{path}").checked()]
    for ends in ("terminated", "truncated"):
        read = readers.open_recording(f"robomimic:{path}", Choice(ends=ends)).checked()
        assert {e.terminated for e in read} == {ends == "terminated"}


def test_robomimic_ends_with_the_first_success(tmp_path, capsys):
    tree = recordings.robomimic_tree(SPARSE)
    tree["data"]["demo_1"]["dones"][3:] = 1
    path = recordings.write_hdf5(tmp_path / "lift.hdf5", tree, recordings.ENV_ARGS)
    episode = [*readers.open_recording(f"robomimic:{path}").checked()][1]
    assert len(episode.actions) == 4 and episode.terminated
    np.testing.assert_array_equal(episode.observations, SPARSE[1].observations[:5])
    assert "3 transitions after an episode's first `dones`" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_has_its_frames_and_tasks(version, tmp_path, capsys):
    folder = recordings.write_lerobot(tmp_path / "lift", PLAYED, version=version)
    recording = readers.open_recording(f"lerobot:{folder}")
    check(recording, PLAYED, lost=True)
    assert recording.about["tasks"] == ["lift the cube"] and recording.about["version"] == version
    assert "videos and images are not read yet: observation.images.top" in capsys.readouterr().err
    check(readers.open_recording(f"lerobot:{folder}", Choice(split="test")), PLAYED[-1:], lost=True)


def test_what_lerobots_own_writer_wrote(tmp_path, monkeypatch):
    """With `pip install 'lerobot[dataset]'` beside; seen with 0.6.1."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    writer = pytest.importorskip("lerobot.datasets.lerobot_dataset", exc_type=ImportError)
    numbers = {"dtype": "float32", "names": None}
    shapes = {"observation.state": (3,), "action": PLAYED[0].actions.shape[1:], "next.reward": (1,)}
    features = {key: {**numbers, "shape": shape} for key, shape in shapes.items()}
    features["next.success"] = {"dtype": "bool", "shape": (1,), "names": None}
    folder = tmp_path / "lift"
    dataset = writer.LeRobotDataset.create("lab/lift", 30, features, folder, use_videos=False)
    for played in PLAYED:
        for t, action in enumerate(played.actions):
            over = played.terminated and t == len(played.actions) - 1
            dataset.add_frame(
                {
                    "observation.state": np.float32(played.observations[t]),
                    "action": np.float32(action),
                    "next.reward": np.float32(played.rewards[t : t + 1]),
                    "next.success": np.array([over]),
                    "task": "lift the cube",
                }
            )
        dataset.save_episode()
    dataset.finalize()
    check(readers.open_recording(f"lerobot:{folder}"), PLAYED, lost=True)


@pytest.mark.parametrize("split", ["0", "3:3", "-1:2", "0:9", [0, 2], None])
def test_lerobot_has_splits_of_its_episodes_only(split, tmp_path):
    folder = recordings.write_lerobot(tmp_path / "lift", PLAYED)
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["splits"] = [1] if split is None else {"part": split}
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match="split"):
        readers.open_recording(f"lerobot:{folder}", Choice(split="part"))


def test_lerobot_says_what_an_end_means_or_the_user_does(tmp_path):
    folder = str(recordings.write_lerobot(tmp_path / "lift", PLAYED, success=False))
    with pytest.raises(UserError, match="give --ends=terminated or --ends=truncated"):
        readers.open_recording(f"lerobot:{folder}")
    for ends, lost in (("terminated", 0), ("truncated", 1)):
        read = [*readers.open_recording(f"lerobot:{folder}", Choice(ends=ends)).checked()]
        assert [e.terminated for e in read] == [ends == "terminated"] * len(PLAYED)
        assert [len(e.actions) for e in read] == [len(e.actions) - lost for e in PLAYED]


def open_and_read(source):
    return [*readers.open_recording(source).checked()]


@pytest.mark.parametrize("case", bad_recordings.BAD)
def test_a_malformed_source_is_refused_in_one_line(case, tmp_path):
    make, words = bad_recordings.BAD[case]
    source = make(tmp_path)
    with pytest.raises(UserError) as error:
        open_and_read(source)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_there_are_sixty_malformed_sources():
    assert len(bad_recordings.BAD) >= 60 and len(bad_recordings.GOOD) >= 10


@pytest.mark.parametrize("case", bad_recordings.GOOD)
def test_an_odd_source_is_read(case, tmp_path):
    read = open_and_read(bad_recordings.GOOD[case](tmp_path))
    assert len(read) == len(PLAYED)
