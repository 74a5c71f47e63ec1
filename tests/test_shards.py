"""The three layouts of a dataset on disk are one dataset, and what is wrong with them is said."""

import numpy as np
import pytest
from bad_datasets import every
from conftest import MAZE, tiny

from qgf_jax.config import RunConfig
from qgf_jax.data.convert import convert
from qgf_jax.data.converted import MANIFEST
from qgf_jax.data.load import Loaded
from qgf_jax.data.shards import Source, _find
from qgf_jax.data.summary import _Moments
from qgf_jax.errors import UserError


@pytest.fixture(scope="module")
def converted(slices_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted")
    convert(slices_data / MAZE, out)
    return out


def same(a, b):
    for name, array in a._asdict().items():
        np.testing.assert_array_equal(array, getattr(b, name))


@pytest.mark.parametrize("goals", [False, True], ids=["task", "goals"])
def test_every_layout_gives_the_same_dataset(maze_data, slices_data, converted, goals, monkeypatch):
    monkeypatch.setattr("qgf_jax.data.shards._PIECE", 450)  # of 1206 rows
    config = tiny(
        **{"data.mode": "resident"} | ({"env": "pointmaze-medium-stitch-v0"} if goals else {})
    )
    loaded = []
    for folder in (maze_data, slices_data, converted):
        loaded.append(Loaded.of(config | {"data": config["data"] | {"dir": str(folder)}}))
    for other in loaded[1:]:
        same(loaded[0].take() if loaded[0].dataset is None else loaded[0].dataset, other.dataset)
        same(loaded[0].validation, other.validation)
        for key in ("state_mean", "state_std", "goal_mean", "goal_std"):
            np.testing.assert_allclose(loaded[0].spec[key], other.spec[key], rtol=1e-12)
        for key in ("rows", "trajectories", "rows_per_trajectory", "obs_min", "actions_at_bounds"):
            assert loaded[0].fingerprint[key] == other.fingerprint[key]
    # A run that began on the slices goes on from what they were converted to.
    assert loaded[1].fingerprint["sha256"] == loaded[2].fingerprint["sha256"]


def test_a_dataset_is_given_away_once(maze_data):
    loaded = Loaded.of(tiny(**{"data.dir": str(maze_data)}))
    loaded.take()
    with pytest.raises(ValueError, match="taken already"):
        loaded.take()


def test_rows_are_read_wherever_they_begin(slices_data, converted):
    whole = Source.open(converted / MAZE)
    rows = whole.read(0, int(whole.slices[-1]))
    for start, stop in ((0, 1), (5, 300), (200, 1206)):
        part = whole.read(start, stop)
        np.testing.assert_array_equal(part.observations, rows.observations[start:stop])
        np.testing.assert_array_equal(part.info["qpos"], rows.info["qpos"][start:stop])
    slices = Source.open(slices_data / MAZE)
    first, last = slices.slices[1:3].tolist()
    np.testing.assert_array_equal(
        slices.read(first + 3, last).actions, rows.actions[first + 3 : last]
    )
    np.testing.assert_array_equal(slices.ends, whole.ends)
    assert slices.transitions == whole.transitions == 1200


def test_converted_data_come_first_and_then_a_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.npz").write_bytes(b"")
    assert _find("a", str(tmp_path)) == tmp_path / "a"
    (tmp_path / "a.npz").write_bytes(b"")
    assert _find("a", str(tmp_path)) == tmp_path / "a.npz"
    (tmp_path / "a" / MANIFEST).write_text("{}")
    assert _find("a", str(tmp_path)) == tmp_path / "a"


def test_slices_of_two_datasets_are_refused(slices_data, tmp_path):
    source = sorted((slices_data / MAZE).glob("*[0-9].npz"))
    with np.load(source[1]) as file:
        wider = {k: file[k] for k in file.files}
    wider["observations"] = np.repeat(wider["observations"], 2, axis=1)
    (tmp_path / "0.npz").write_bytes(source[0].read_bytes())
    np.savez(tmp_path / "1.npz", **wider)
    with pytest.raises(UserError, match=r"1\.npz: its arrays are .*: these are slices of two"):
        Source.open(tmp_path)
    with pytest.raises(UserError, match="these are slices of two"):
        convert(tmp_path, tmp_path / "out")
    (tmp_path / "1.npz").write_bytes(source[1].read_bytes()[:-100])
    with pytest.raises(UserError, match=r"1\.npz: it is cut off"):
        Source.open(tmp_path)


def test_a_slice_that_changes_while_in_use_is_refused(slices_data, tmp_path):
    source = sorted((slices_data / MAZE).glob("*[0-9].npz"))
    for i, path in enumerate(source[:2]):
        (tmp_path / f"{i}.npz").write_bytes(path.read_bytes())
    opened = Source.open(tmp_path)
    (tmp_path / "1.npz").write_bytes(source[2].read_bytes())
    opened.read(0, 5)
    with pytest.raises(UserError, match=r"1\.npz: it was altered while in use"):
        opened.read(int(opened.slices[1]), int(opened.slices[1]) + 5)


@pytest.fixture(scope="module")
def odd_alone(maze_data, tmp_path_factory):
    """Trajectories 1, 3 and 5 as a dataset of their own, as a file and converted."""
    folder = tmp_path_factory.mktemp("odd")
    with np.load(maze_data / f"{MAZE}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    number = np.cumsum(arrays["terminals"]) - arrays["terminals"]
    np.savez(folder / f"{MAZE}.npz", **{k: v[number % 2 == 1] for k, v in arrays.items()})
    convert(folder / f"{MAZE}.npz", folder / "converted")
    return folder


@pytest.mark.parametrize("kind", ["task", "goals", "own units"])
def test_a_part_is_as_a_dataset_of_its_trajectories_alone(
    maze_data, slices_data, converted, odd_alone, kind, monkeypatch
):
    """Of three slices the first has nothing odd."""
    monkeypatch.setattr("qgf_jax.data.shards._PIECE", 300)
    changes = {"goals": GOALS, "own units": {"data.action_scale": "std"}}.get(kind, {})
    config = tiny(**{"data.mode": "resident", "data.dir": str(odd_alone), **changes})
    alone = Loaded.of(config)
    for folder in (maze_data, slices_data, converted):
        part = Loaded.of(config | {"data": config["data"] | {"dir": str(folder), "part": "odd"}})
        same(part.dataset, alone.dataset)
        assert part.spec.keys() == alone.spec.keys()
        for key, value in alone.spec.items():
            np.testing.assert_allclose(part.spec[key] or 0, value or 0, rtol=1e-5)
        for key in ("rows", "trajectories", "rows_per_trajectory", "obs_min", "obs_max"):
            assert part.fingerprint[key] == alone.fingerprint[key]
    of_all = Loaded.of(config | {"data": config["data"] | {"dir": str(maze_data)}})
    part = Loaded.of(config | {"data": config["data"] | {"dir": str(maze_data), "part": "even"}})
    assert part.fingerprint["sha256"] == of_all.fingerprint["sha256"]
    assert len(part.dataset.obs) + len(alone.dataset.obs) == len(of_all.dataset.obs)
    if kind != "own units":
        same(part.validation, of_all.validation)


@pytest.mark.parametrize("goals", [False, True], ids=["task", "goals"])
def test_a_part_is_streamed_as_a_dataset_of_its_trajectories_alone(
    slices_data, converted, odd_alone, goals
):
    config = tiny(**{"data.mode": "streamed", "data.block": 150} | (GOALS if goals else {}))
    streams = [
        Loaded.of(config | {"data": config["data"] | {"dir": str(folder), "part": part}}).take()
        for folder, part in ((odd_alone / "converted", "all"), (converted, "odd"))
    ]
    assert len(streams[0]) == len(streams[1]) > 2
    for i in range(len(streams[0])):
        same(streams[0].read(i), streams[1].read(i))
    packed = Loaded.of(config | {"data": config["data"] | {"dir": str(slices_data), "part": "odd"}})
    stream, whole = packed.take(), Source.open(slices_data / MAZE).read(0, 201)
    blocks = [stream.read(i) for i in range(len(stream))]
    assert not any(np.isin(whole.actions[:200], block.action).all(1).any() for block in blocks)


def test_a_part_is_what_a_run_is_and_may_not_be_empty(odd_alone, tmp_path):
    first, whole = RunConfig(tiny(**{"data.part": "odd"})), RunConfig(tiny())
    assert first.changes_to(tiny()) == ["data.part: 'odd' -> 'all'"]
    assert "data.part" in first.identity() and "data.part" not in whole.identity()
    rows = Source.open(odd_alone / f"{MAZE}.npz").read(0, 201)
    one = Source.of_rows(tmp_path / "one.npz", rows, "")
    assert one.part("all") is one and one.part("even").transitions == one.transitions == 200
    with pytest.raises(UserError, match="one.npz: data.part=odd leaves no trajectory"):
        one.part("odd")


def test_what_is_wrong_in_a_part_is_said_by_its_row_on_disk(maze_data, tmp_path):
    far = lambda actions: np.where(np.arange(len(actions))[:, None] == 205, 2.0, actions)
    changed_data(maze_data, tmp_path, actions=far)
    for folder in (tmp_path, tmp_path / "converted"):
        with pytest.raises(UserError, match=r"leave \[-1, 1\] in row 205"):
            Loaded.of(tiny(**{"data.dir": str(folder), "data.part": "odd"}))


def changed_data(maze_data, folder, **changes):
    """The maze data with other columns, as a file and converted, without validation data."""
    with np.load(maze_data / f"{MAZE}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    arrays |= {key: change(arrays[key]) for key, change in changes.items()}
    np.savez(folder / f"{MAZE}.npz", **arrays)
    convert(folder / f"{MAZE}.npz", folder / "converted")


GOALS = {"env": "pointmaze-medium-stitch-v0"}


@pytest.mark.parametrize("kind", [{}, GOALS], ids=["task", "goals"])
def test_nothing_to_learn_from_is_refused_however_it_is_read(maze_data, tmp_path, kind):
    """Three rows a trajectory, chunks of three: every loss would be 0."""
    changed_data(maze_data, tmp_path, terminals=lambda ends: every({"terminals": ends}, 3))
    hint = "no trajectory has 3 transitions in a row; the longest has 2: set data.chunk=2"
    for folder, mode in ((".", "auto"), ("converted", "resident"), ("converted", "streamed")):
        options = kind | {"data.dir": str(tmp_path / folder), "data.mode": mode}
        with pytest.raises(UserError, match=rf"{MAZE}(\.npz)?: {hint}"):
            Loaded.of(tiny(**options))
        assert Loaded.of(tiny(**options, **{"data.chunk": 2})).dataset
    twin, good = tmp_path / f"{MAZE}-val.npz", tmp_path / f"{MAZE}.npz"
    good.rename(twin)
    good.write_bytes((maze_data / f"{MAZE}.npz").read_bytes())
    with pytest.raises(UserError, match=rf"{MAZE}-val\.npz: {hint}"):
        Loaded.of(tiny(**kind, **{"data.dir": str(tmp_path)}))


def test_dimensions_that_are_not_scaled_are_named(maze_data, tmp_path, capsys):
    noise = np.random.default_rng(0).normal(0, 2e-6, 1206)

    def still(obs):
        return np.stack([obs[:, 0], (5 + noise).astype(np.float32)], axis=1)

    changed_data(maze_data, tmp_path, observations=still)
    for kind, said in (({}, ("observation 1",)), (GOALS, ("observation 1", "goal 1"))):
        capsys.readouterr()
        loaded = Loaded.of(tiny(**kind, **{"data.dir": str(tmp_path)}))
        lines = capsys.readouterr().err.splitlines()
        assert [line.split(":")[1].strip() for line in lines] == list(said)
        stds = loaded.spec["state_std"] + loaded.spec["goal_std"]
        assert stds[0] > 1 and stds[1::2] == (1.0,) * len(said)
    Loaded.of(tiny(**{"data.dir": str(tmp_path), "data.standardize": False}))
    assert capsys.readouterr().err == ""


def test_moments_of_parts_are_those_of_the_whole():
    array = np.random.default_rng(0).normal(3, 2, (1000, 11)).astype(np.float32)
    whole = _Moments.of(array)
    np.testing.assert_array_equal(whole.std, array.std(axis=0, dtype=np.float64))
    merged = _Moments.of(array[:7]).merge(_Moments.of(array[7:300])).merge(_Moments.of(array[300:]))
    for a, b in zip(whole, merged, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
