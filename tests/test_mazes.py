"""Point mazes without the benchmark: its numbers, data made on the device, and a whole run of them."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT, tiny

from qgf_jax import cli
from qgf_jax.data.collect import collect
from qgf_jax.data.formats import Rows
from qgf_jax.data.load import Loaded
from qgf_jax.envs import mazes, ogbench, worker
from qgf_jax.errors import UserError
from qgf_jax.training import dry_run

NEEDED = ("ogbench", "mujoco", "gymnasium", "dm_control")
NAME = "pointmaze-medium-stitch-v0"


@pytest.fixture
def bare(monkeypatch):
    """As on a machine that has none of the benchmark's packages."""
    for package in (*NEEDED, "tensorboardX"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("scene", mazes.MAZES)
def test_numbers_are_those_of_the_installed_environments(scene):
    maze = mazes.MAZES[scene]
    for single in ("", "-singletask-task3"):
        env = ogbench.FAMILY.gym(f"{scene}{single}-{mazes.VERSION}")
        real = env.unwrapped
        np.testing.assert_array_equal(maze.free, real.maze_map == 0)
        assert maze.tasks == tuple((t["init_ij"], t["goal_ij"]) for t in real.task_infos)
        for cell in maze.cells:
            np.testing.assert_array_equal(maze.centre(cell), real.ij_to_xy(cell))
        assert (real._maze_unit, real._offset_x, real._offset_y) == (mazes.UNIT, *mazes.OFFSET)
        assert (real._goal_tol, real._noise * real._maze_unit / 4) == (
            mazes.TOLERANCE,
            mazes.SPREAD,
        )
        assert real._terminate_at_goal and env.spec.max_episode_steps == mazes.LIMIT
        assert (real._success_timing, real._add_noise_to_goal) == (
            ("pre", False) if single else ("post", True)
        )
        assert real.model.geom("pointbody").size[0] == mazes.RADIUS
        assert (env.observation_space.shape, env.action_space.shape) == ((2,), (2,))
        info = real._teleport_info or {"teleport_radius": mazes.TELEPORT_RADIUS}
        assert tuple(info.get("teleport_in_ijs", ())) == maze.entrances
        assert tuple(info.get("teleport_out_ijs", ())) == maze.exits
        assert info["teleport_radius"] == mazes.TELEPORT_RADIUS


@pytest.mark.parametrize("scene", mazes.MAZES)
def test_ways_are_those_of_the_benchmarks_expert(scene):
    maze = mazes.MAZES[scene]
    real = ogbench.FAMILY.gym(f"{scene}-{mazes.VERSION}").unwrapped
    cells = maze.cells
    for goal in cells[:: max(1, len(cells) // 12)]:
        ours = maze.subgoals(goal)
        for cell in cells:
            subgoal, away = real.get_oracle_subgoal(real.ij_to_xy(cell), real.ij_to_xy(goal))
            np.testing.assert_array_equal(ours[cell], subgoal)
        np.testing.assert_array_equal(maze.distances(goal), away)


@pytest.mark.parametrize("scene", mazes.MAZES)
def test_labels_are_the_benchmarks_to_the_bit(scene, tmp_path):
    rng = np.random.default_rng(0)
    for task in ogbench.TASKS:
        name = ogbench.FAMILY.parse(f"{scene}-navigate-singletask-task{task}-v0")
        env, maze = ogbench.FAMILY.gym(name.env_id), mazes.MAZES[scene]
        goal = maze.centre(maze.tasks[task - 1][1])
        qpos = (goal + rng.uniform(-1.5, 1.5, (500, 2))).astype(np.float32)
        by_rule, by_simulator = ogbench.FAMILY.labels(name), ogbench._SimulatorLabels(name, env)
        for ours, theirs in zip(
            by_rule.rewards({"qpos": qpos}, tmp_path),
            by_simulator.rewards({"qpos": qpos}, tmp_path),
            strict=True,
        ):
            assert ours.tobytes() == theirs.tobytes() and ours.dtype == theirs.dtype
        assert 0 < ours.mean() < 1
    oracle = ogbench.FAMILY.parse(f"{scene}-navigate-oraclerep-v0")
    labels = (ogbench.FAMILY.labels(oracle), ogbench._SimulatorLabels(oracle, env))
    found, theirs = (some.goals({"qpos": qpos}, tmp_path) for some in labels)
    np.testing.assert_array_equal(found, theirs)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data of the expert on the device."""
    folder = tmp_path_factory.mktemp("device")
    collect(NAME, 30, folder, simulator="jax")
    return folder


def test_data_of_the_device_have_the_benchmarks_form(made, maze_data, tmp_path):
    ours, real = (Rows.read(folder / f"{NAME}.npz") for folder in (made, maze_data))
    assert ours.ends.sum() == 30 and (np.diff(np.flatnonzero(ours.ends)) == 201).all()
    assert Rows.read(made / f"{NAME}-val.npz").ends.sum() == 3
    np.testing.assert_array_equal(ours.observations, ours.info["qpos"])
    for folder, marked in ((made, True), (maze_data, False)):
        with np.load(folder / f"{NAME}.npz") as file:
            assert ("simulator" in file.files) == marked
            assert not marked or str(file["simulator"]) == "jax"
    free = mazes.MAZES["pointmaze-medium"].free
    for rows in (ours, real):
        column, row = np.round((rows.observations + mazes.OFFSET) / mazes.UNIT).astype(int).T
        assert free[row, column].all()
        away = [
            np.linalg.norm(rows.observations[end] - rows.observations[end - 200])
            for end in np.flatnonzero(rows.ends)
        ]
        assert (np.array(away) > 4).mean() > 0.8  # nobody stays where he began
    # Half of an action is noise, clipped to the box: as in the real ones.
    np.testing.assert_allclose(ours.actions.std(), real.actions.std(), rtol=0.05)
    collect(NAME, 2, tmp_path / "again", simulator="jax")
    again = Rows.read(tmp_path / "again" / f"{NAME}.npz")
    np.testing.assert_array_equal(again.actions, ours.actions[: len(again.actions)])
    collect(NAME, 2, tmp_path / "other", simulator="jax", seed=1)
    other = Rows.read(tmp_path / "other" / f"{NAME}.npz")
    assert not np.array_equal(other.actions, again.actions)


def test_the_experts_of_the_device_arrive_and_go_on(tmp_path):
    """Of kind navigate: heads for the goal, and for another one from there."""
    collect("pointmaze-medium-navigate-v0", 8, tmp_path, simulator="jax")
    rows = Rows.read(tmp_path / "pointmaze-medium-navigate-v0.npz")
    maze, visited = mazes.MAZES["pointmaze-medium"], []
    for end in np.flatnonzero(rows.ends):
        places = rows.observations[end - 1000 : end + 1]
        squares = np.round((places + mazes.OFFSET) / mazes.UNIT).astype(int)
        visited.append(len(np.unique(squares, axis=0)))
    assert np.mean(visited) > 0.6 * len(maze.cells)


@pytest.mark.whole
def test_a_run_from_nothing_to_a_table_without_the_benchmark(bare, tmp_path, capsys):
    run, config = tmp_path / "run", f"--config={ROOT}/tests/tiny_config.py"
    data = [f"--config.data.dir={tmp_path}"]
    cli.main(["collect", f"--env={NAME}", "--episodes=3", f"--out={tmp_path}", "--simulator=jax"])
    cli.main(["train", config, f"--workdir={run}", *data])
    words = ["--methods=reference,qgf", "--weights=1", "--episodes=2", "--selection_episodes=1"]
    cli.main(["evaluate", f"--workdir={run}", *words, "--envs=jax:4"])
    capsys.readouterr()
    cli.main(["report", f"--workdir={run}"])
    assert "(jax)" in capsys.readouterr().out
    rows = json.loads((run / "report" / "summary.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"reference", "qgf"}
    assert all(row["success"]["low"] <= row["success"]["high"] for row in rows)
    assert (run / "report" / "trajectories.png").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["collect", "--env=cube-single-play-v0", "--out=data"],
        ["collect", f"--env={NAME}", "--out=data"],
        [
            "train",
            f"--config={ROOT}/experiments/configs/ogbench.py:cube_single_small",
            "--workdir=r",
        ],
        ["train", f"--config={ROOT}/experiments/configs/paper.py:cube_triple", "--dry_run"],
    ],
)
def test_what_needs_the_benchmark_says_so_in_one_line(bare, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "\n" not in said
    assert f"need {', '.join(NEEDED[i] for i in (0, 3, 1, 2))}, which are not installed" in said
    assert "point mazes alone do without" in said and not list(tmp_path.iterdir())


def test_the_worker_of_an_evaluation_passes_the_line_on(bare):
    """It is a process of its own, which finds out by itself."""

    class Channel:
        sent = b""

        def sendall(self, data):
            self.sent += data

    worker._serve(channel := Channel(), "pointmaze-medium-navigate-singletask-task1-v0", 1)
    assert b"refused" in channel.sent and b"which are not installed" in channel.sent


def test_goals_that_are_observations_need_rows_alone(bare, tmp_path, capsys):
    rng = np.random.default_rng(0)
    ends = np.arange(40) % 20 == 19
    np.savez(
        tmp_path / "cube-single-play-v0.npz",
        observations=rng.standard_normal((40, 28)).astype(np.float32),
        actions=rng.uniform(-1, 1, (40, 5)).astype(np.float32),
        terminals=ends,
    )
    config = tiny(critic="dqc", **{"data.dir": str(tmp_path), "env": "cube-single-play-v0"})
    loaded = Loaded.of(config)
    assert (loaded.spec["state"], loaded.spec["goal"], loaded.spec["action"]) == ((28,), (28,), 5)
    assert "nobody checks that the rows are those of cube-single-v0" in capsys.readouterr().err
    with pytest.raises(UserError, match="which are not installed"):
        Loaded.of({**config, "env": "cube-single-play-singletask-v0"})


def test_widths_of_a_maze_are_those_that_the_environment_has():
    for name in (
        NAME,
        "pointmaze-medium-stitch-singletask-v0",
        "pointmaze-medium-stitch-oraclerep-v0",
    ):
        spec, world = (
            dry_run._spec_of(tiny(env=name)),
            ogbench.FAMILY.make(ogbench.FAMILY.parse(name).with_task(1)),
        )
        assert spec.width == len(world.reset(0))
        assert spec.action == world.env.action_space.shape[0]


def test_no_simulator_on_the_device_but_for_mazes(tmp_path):
    for name, hint in (("cube-single-play-v0", "environment to collect from"), (NAME, "mujocco")):
        simulator = "mujocco" if name == NAME else "jax"
        with pytest.raises(UserError, match=hint):
            collect(name, 1, tmp_path, simulator=simulator)


def test_from_where_nothing_is_four_steps_away_an_expert_stays():
    """As the benchmark's does; in a maze with teleports there is such a square."""
    for scene, maze in mazes.MAZES.items():
        goals = {cell: maze.expert_goals("stitch", cell) for cell in maze.cells}
        assert all(goals.values())
        alone = [cell for cell, some in goals.items() if some == [cell]]
        assert bool(alone) == (scene == "pointmaze-teleport")


def test_experts_episodes_are_as_long_as_the_benchmarks():
    for scene, maze in mazes.MAZES.items():
        longest = 2001 if scene == "pointmaze-giant" else 1001
        lengths = [maze.expert_length(kind) for kind in mazes.EXPERT_KINDS]
        assert lengths == [longest, 201, longest]
