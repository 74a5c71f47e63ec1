"""Collected files: the benchmark's format, whole or absent, the same for any number of processes."""

import numpy as np
import pytest
from conftest import MAZE

from qgf_jax.data import collect as collecting
from qgf_jax.data.collect import collect
from qgf_jax.data.formats import Rows
from qgf_jax.envs import mazes
from qgf_jax.errors import UserError


def test_file_has_the_benchmarks_format(maze_data):
    for suffix, episodes in (("", 6), ("-val", 1)):
        with np.load(maze_data / f"{MAZE}{suffix}.npz", allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
        assert set(arrays) == {"observations", "actions", "terminals", "qpos", "qvel"}
        assert arrays["terminals"].dtype == bool and arrays["terminals"].sum() == episodes
        assert all(arrays[k].dtype == np.float32 for k in arrays if k != "terminals")
        assert len(arrays["observations"]) == 201 * episodes
    assert not list(maze_data.glob(".*"))  # no leftovers


def test_observation_belongs_to_the_state_before_the_action(maze_data):
    """In free space a point mass moves by exactly 0.2 times the action."""
    rows = Rows.read(maze_data / f"{MAZE}.npz")
    np.testing.assert_allclose(rows.observations, rows.info["qpos"], atol=1e-6)
    moved = np.diff(rows.observations, axis=0)[~rows.ends[:-1]]
    error = np.abs(moved - 0.2 * rows.actions[:-1][~rows.ends[:-1]]).max(axis=1)
    assert (error < 1e-4).mean() > 0.95


def test_experts_head_for_the_goal_and_stitch_goals_are_four_cells_away(maze_data):
    rows = Rows.read(maze_data / f"{MAZE}.npz")
    ends = np.flatnonzero(rows.ends)
    starts = np.append(0, ends[:-1] + 1)
    distance = np.linalg.norm(rows.observations[ends] - rows.observations[starts], axis=1)
    assert (distance > 4).mean() > 0.8  # nobody stays where he began


def test_number_of_processes_does_not_show_and_other_seeds_do(maze_data, tmp_path):
    collect(MAZE, 6, tmp_path / "one", workers=1)
    collect(MAZE, 6, tmp_path / "seed", seed=1, workers=2)
    for suffix in ("", "-val"):
        name = f"{MAZE}{suffix}.npz"
        two, one = np.load(maze_data / name), np.load(tmp_path / "one" / name)
        other = np.load(tmp_path / "seed" / name)
        for key in two.files:
            np.testing.assert_array_equal(two[key], one[key])
        assert not np.array_equal(two["actions"], other["actions"])


def test_stopped_collection_goes_on_and_leaves_no_half_file(maze_data, tmp_path, monkeypatch):
    calls = []
    real = collecting._make_one

    def stops(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(*args)

    class Inline:
        """Runs jobs at once, in this process."""

        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def shutdown(self, **_):
            pass

        def submit(self, function, *args):
            import concurrent.futures

            future = concurrent.futures.Future()
            try:
                future.set_result(collecting._make_one(*args))
            except BaseException as error:
                future.set_exception(error)
            return future

    monkeypatch.setattr(collecting.concurrent.futures, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(collecting, "_make_one", stops)
    with pytest.raises(KeyboardInterrupt):
        collect(MAZE, 6, tmp_path)
    assert not list(tmp_path.glob("*.npz"))
    done = len(calls)
    monkeypatch.setattr(collecting, "_make_one", lambda *a: (calls.append(a), real(*a)))
    collect(MAZE, 6, tmp_path)
    assert len(calls) - done == 1  # seven episodes, of which the fourth was interrupted
    with np.load(tmp_path / f"{MAZE}.npz") as a, np.load(maze_data / f"{MAZE}.npz") as b:
        np.testing.assert_array_equal(a["actions"], b["actions"])


def test_vertices_are_not_straight_corridors():
    vertices = mazes.MAZES["pointmaze-medium"].vertices
    assert (3, 3) not in vertices and (5, 1) not in vertices  # between left and right, up and down
    assert (1, 1) in vertices and (6, 5) in vertices  # a corner, a dead end


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("antmaze-medium-navigate-v0", "low-level policy"),
        ("cube-single-navigate-v0", "'play'|noisy"),
        ("visual-cube-single-play-v0", "pixels"),
        ("pointmaze-medium", "SCENE-KIND"),
    ],
)
def test_what_cannot_be_collected_is_explained(name, hint, tmp_path):
    with pytest.raises(UserError, match=hint):
        collect(name, 1, tmp_path)


def test_existing_file_is_not_overwritten(maze_data):
    with pytest.raises(UserError, match="already"):
        collect(MAZE, 6, maze_data)


def test_validation_data_of_somebody_else_are_not_written_over(tmp_path):
    """A killed call has left episodes, and somebody puts a file there before it is given again."""
    (tmp_path / f".{MAZE}-seed0.partial").mkdir()
    theirs = tmp_path / f"{MAZE}-val.npz"
    theirs.write_bytes(b"mine")
    with pytest.raises(UserError, match="is there already"):
        collect(MAZE, 1, tmp_path)
    assert theirs.read_bytes() == b"mine"
