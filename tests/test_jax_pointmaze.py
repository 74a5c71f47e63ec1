"""The point maze on the device: how far from the real one, and evaluation in it."""

import json
import shutil

import jax
import numpy as np
import pytest

from qgf_jax import cli
from qgf_jax.envs import ogbench
from qgf_jax.envs.jax_pointmaze import SCENES, PointMaze
from qgf_jax.errors import UserError
from qgf_jax.evaluation import evaluate, summary, worker_pool
from qgf_jax.evaluation.arms import Arm, Program
from qgf_jax.evaluation.device import DeviceSimulator
from qgf_jax.evaluation.episodes import SPLITS
from qgf_jax.evaluation.sweep import Job
from qgf_jax.report.tables import Table
from qgf_jax.runs import loaded
from qgf_jax.runs.files import Lines
from qgf_jax.runs.loaded import LoadedRun


def pair(name):
    """The real environment and the one on the device, its step compiled."""
    maze = PointMaze(name)
    return ogbench.FAMILY.make(maze.name), maze, jax.jit(maze.step)


def wander(world, steps, rng):
    """(before, action, after) of a walk that presses against walls, from cell to cell."""
    maze = world.env.unwrapped
    cells, rows = np.argwhere(maze.maze_map == 0), []
    for t in range(steps):
        if t % 100 == 0:
            maze.set_xy(np.array(maze.ij_to_xy(cells[rng.integers(len(cells))])))
        if t % 20 == 0:
            ahead = rng.standard_normal(2)
        action = np.clip(ahead + rng.normal(0.0, 0.5, 2), -1, 1).astype(np.float32)
        before = maze.data.qpos.copy()
        rows.append((before, action, maze.step(action)[0]))
    return map(np.array, zip(*rows, strict=True))


@pytest.mark.parametrize("scene", SCENES)
def test_one_step_is_exact_in_free_space_and_close_in_contact(scene):
    world, maze, _ = pair(f"{scene}-navigate-task1-v0")
    world.reset(0)
    before, action, after = wander(world, 2000, np.random.default_rng(1))
    state, _ = maze.reset(maze.start(1, 0))
    many = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], len(before), axis=0), state)
    many = many._replace(xy=before.astype(np.float32))
    _, obs, *_ = jax.jit(jax.vmap(maze.step))(many, action)
    pushed = after - before - 0.2 * action
    error = np.linalg.norm(np.asarray(obs)[:, :2] - after, axis=1)
    touching = np.linalg.norm(pushed, axis=1) > 1e-9
    both = (np.abs(pushed) > 1e-3).all(axis=1)  # an inner corner, or the end of a wall
    assert touching.sum() > 400 and both.sum() > 50 and (~touching).sum() > 400
    assert error[~touching].max() < 1e-5
    assert np.median(error[touching]) < 1e-5  # one wall alone is exact
    assert error[touching].mean() < 0.002 and error[both].mean() < 0.008
    assert np.percentile(error[touching], 99) < 0.02 and error.max() < 0.04


@pytest.mark.parametrize(
    "name", ["medium-navigate", "large-navigate-singletask", "teleport-explore"]
)
def test_episodes_start_where_the_real_ones_do(name):
    maze = PointMaze(f"pointmaze-{name}-v0")
    for task in ogbench.TASKS:
        world = ogbench.FAMILY.make(maze.name.with_task(task))
        for episode in (0, 7):
            seed = Job((), 0, task, episode).reset_seed
            real = world.reset(seed)
            start = maze.start(task, seed)
            np.testing.assert_array_equal(maze.reset(start)[1], real.astype(np.float32))
            goal = world.goal_position()
            np.testing.assert_array_equal(start.goal, np.array(goal, np.float32))


def test_episodes_can_be_drawn_on_the_device_from_the_same_squares():
    for name in ("pointmaze-teleport-navigate-v0", "pointmaze-medium-navigate-singletask-v0"):
        maze = PointMaze(name)
        drawn = jax.vmap(lambda key, m=maze: m.draw(3, key))(
            jax.random.split(jax.random.key(0), 400)
        )
        real = [maze.start(3, seed) for seed in range(400)]
        for field in ("xy", "goal"):
            ours, theirs = (
                np.asarray(getattr(drawn, field)),
                np.stack([getattr(s, field) for s in real]),
            )
            for edge in (np.min, np.max):
                np.testing.assert_allclose(edge(ours, axis=0), edge(theirs, axis=0), atol=0.05)
        assert drawn.exits.shape == (400, len(real[0].exits))
        assert set(np.unique(drawn.exits)) == set(np.unique([s.exits for s in real]))


@pytest.mark.parametrize("kind", ["navigate-singletask", "navigate-task1"])
def test_rewards_success_and_end_come_when_the_real_ones_do(kind):
    world, maze, step = pair(f"pointmaze-medium-{kind}-v0")
    real = world.env.unwrapped
    obs = world.reset(5)
    state, _ = maze.reset(maze.start(1, 5))
    rng, done = np.random.default_rng(0), False
    while not done:
        to = real.get_oracle_subgoal(real.get_xy(), real.cur_goal_xy)[0] - real.get_xy()
        action = np.clip(to + rng.normal(0, 0.3, 2), -1, 1).astype(np.float32)
        state, *mine = step(state._replace(xy=np.float32(obs[:2])), action)
        obs, reward, done, info = world.step(action)
        np.testing.assert_allclose(mine[0], obs, atol=0.04)
        assert tuple(map(float, mine[1:])) == (reward, done, info["success"])
    assert info["success"] and 50 < state.steps < 400


def test_time_limit():
    _, maze, step = pair("pointmaze-giant-navigate-task1-v0")
    state, _ = maze.reset(maze.start(1, 0))
    for steps, over in ((maze.limit - 2, False), (maze.limit - 1, True)):
        *_, done, success = step(state._replace(steps=np.int32(steps)), np.zeros(2, np.float32))
        assert (bool(done), bool(success)) == (over, False)
    assert maze.limit == ogbench.FAMILY.gym("pointmaze-giant-v0").spec.max_episode_steps


def test_teleports_lead_where_the_real_ones_do():
    world, maze, step = pair("pointmaze-teleport-navigate-singletask-task1-v0")
    world.reset(11)
    state, _ = maze.reset(maze.start(1, 11))
    gone = []
    for i in range(12):
        near = np.array(maze._entrances[i % 2]) + np.array([1.6, 0.0])
        world.env.unwrapped.set_xy(near)
        state = state._replace(xy=np.float32(near))
        for action in np.float32([[0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]):
            state, obs, *_ = step(state, action)
            real = world.step(action)[0]
            np.testing.assert_allclose(obs, real, atol=0.02)
            np.testing.assert_allclose(state.xy, world.env.unwrapped.get_xy(), atol=0.02)
        gone.append(tuple(np.round(np.asarray(state.xy))))
    assert len(set(gone)) == 3 and int(state.teleports) == 12


def expert(world, noise):
    """The scripted expert as (xy, goal) -> action, by the real maze's directions."""
    real = world.env.unwrapped

    def act(xy, goal):
        to = real.get_oracle_subgoal(xy, goal)[0] - xy
        return np.clip(to / (np.linalg.norm(to) + 1e-6) + next(noise), -1, 1).astype(np.float32)

    return act


def test_the_expert_arrives_in_both_and_about_as_soon():
    world, maze, step = pair("pointmaze-large-navigate-singletask-v0")
    lengths = []
    for seed in range(4):
        world.reset(seed)
        state, xy = maze.reset(maze.start(1, seed))
        noise = np.random.default_rng(seed).normal(0, 0.5, (2, 1000, 2))
        for device in (False, True):
            act, steps, done = expert(world, iter(noise[0])), 0, False
            xy = xy if device else world.env.unwrapped.get_xy()
            while not done:
                action = act(np.asarray(xy), world.env.unwrapped.cur_goal_xy)
                if device:
                    state, xy, _, done, success = step(state, action)
                else:
                    xy, _, done, info = world.step(action)
                    success = info["success"]
                steps += 1
            assert success
            lengths.append(steps)
    real, ours = np.array(lengths).reshape(4, 2).T
    assert np.abs(real - ours).max() <= 5 and real.min() > 100, lengths


SWEEP = Arm.sweep(["reference", "qgf"], [0.5, 1.0])


@pytest.fixture(scope="module")
def played(run_folder, tmp_path_factory):
    """A run that was evaluated on the device and, in part, in the real environment."""
    folder = shutil.copytree(run_folder, tmp_path_factory.mktemp("device") / "run")
    traces, real = [], LoadedRun.sampler

    def counting(*args):
        sample = real(*args)
        return lambda *inner: (traces.append(args[1]), sample(*inner))[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadedRun, "sampler", counting)
        usage = evaluate.evaluate(
            folder, SWEEP, episodes=7, selection_episodes=6, tasks=(1, 2), envs=8, simulator="jax"
        )
    assert sorted(traces) == ["qgf", "reference"]  # once each, for all weights, tasks and seeds
    assert usage.episodes == 13 * 2 * 2 * 3
    evaluate.evaluate(folder, SWEEP, episodes=2, selection_episodes=1, envs=4, workers=1)
    return folder


def key_of(line):
    return tuple(line[k] for k in ("method", "weight", "task", "episode", "seed"))


@pytest.mark.whole
def test_evaluation_is_stepping_by_hand(played):
    lines = [
        line for line in Lines.read(played / "episodes.jsonl").records if "(jax)" in line["env"]
    ]
    by_key = {key_of(line): line for line in lines}
    assert len(by_key) == len(lines) == 13 * 2 * 2 * 3
    restored = LoadedRun.open(played)
    act = worker_pool._compile_act(restored, Program("qgf", 1, ()), 1)
    maze = PointMaze(restored.run.config["env"])
    step = jax.jit(maze.step)
    for task, episode, seed in ((1, 3, 0), (2, 0, 1)):
        line = by_key["qgf", 1.0, task, episode, seed]
        state, obs = maze.reset(maze.start(task, Job((), 0, task, episode).reset_seed))
        path, total, chunks, done = [np.asarray(obs)], 0.0, 0, False
        while not done:
            identity = np.int32([[[task, episode, chunks]]] * 2)
            weight = np.ones((2, 1), np.float32)
            for action in act(np.float32([[obs]] * 2), identity, weight)[seed, 0]:
                state, obs, reward, done, success = step(state, action)
                total += float(reward)
                if done:
                    break
            chunks += 1
            path.append(np.asarray(obs))
        expected = (total, int(state.steps), float(success))
        assert (line["return"], line["length"], line["success"]) == expected
        np.testing.assert_allclose(line["path"], path, atol=0.02)
        np.testing.assert_allclose(line["goal"], state.goal, atol=1e-5)
        assert line["split"] == SPLITS[episode % 2] and line["step"] == restored.step


def test_the_same_policy_goes_the_same_way_in_both(played):
    lines = list(Lines.read(played / "episodes.jsonl").records)
    real = {key_of(line): line for line in lines if "(jax)" not in line["env"]}
    ours = {key_of(line): line for line in lines if "(jax)" in line["env"]}
    assert len(real) == 3 * 2 * 3
    for key, line in real.items():
        length = min(len(line["path"]), 15)
        np.testing.assert_allclose(line["path"][:length], ours[key]["path"][:length], atol=0.1)


def test_finished_episodes_are_not_played_again(played, tmp_path):
    folder = shutil.copytree(played, tmp_path / "run")
    path = folder / "episodes.jsonl"
    lines = path.read_text().splitlines()
    (lost,) = [x for x in lines if key_of(json.loads(x)) == ("qgf", 0.5, 2, 5, 1)]
    path.write_text("\n".join(x for x in lines if x != lost) + "\n")
    options = {"episodes": 7, "selection_episodes": 6, "envs": 8, "simulator": "jax"}
    assert evaluate.evaluate(folder, SWEEP, tasks=(1, 2), **options).episodes == 1
    again = json.loads(path.read_text().splitlines()[-1])
    lost = json.loads(lost)
    for line in (again, lost):
        del line["seconds"]
    assert again == lost
    assert evaluate.evaluate(folder, SWEEP, tasks=(1, 2), **options).episodes == 0


def test_nothing_mixes_the_simulators(played, tmp_path):
    lines = list(Lines.read(played / "episodes.jsonl").records)
    labels = {line["env"] for line in lines}
    assert labels == {"pointmaze-medium-stitch-v0", "pointmaze-medium-stitch-v0 (jax)"}
    for line in lines:  # the device says 0.5 is better, the real environment 1.0
        better = 0.5 if "(jax)" in line["env"] else 1.0
        line["success"] = float(line["weight"] == better)
    rows = summary.summarize(lines)
    for label in labels:
        alone = summary.summarize([line for line in lines if line["env"] == label])
        assert [row for row in rows if row["env"] == label] == alone
        chosen = {r["weight"] for r in alone if r["method"] == "qgf" and r["selected"]}
        assert chosen == {0.5 if "(jax)" in label else 1.0}
    best = Table(rows).optimistic()
    assert len(best) == len({(row["env"], row["task"], row["method"]) for row in best})
    text = Table(rows).markdown()
    assert text.count("(jax)") == sum("(jax)" in r["env"] for r in rows if r["split"] == "report")

    folder = shutil.copytree(played, tmp_path / "run")
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = {"episodes": 3, "selection_episodes": 1, "report_selected": True}
    evaluate.evaluate(folder, SWEEP, **more, envs=4, workers=1)
    new = list(Lines.read(folder / "episodes.jsonl").records)[len(lines) :]
    assert {(x["env"], x["method"], x["weight"], x["episode"]) for x in new} == {
        ("pointmaze-medium-stitch-v0", "reference", 0.0, 5),
        ("pointmaze-medium-stitch-v0", "qgf", 1.0, 5),
    }


def test_devices_divide_the_seeds_and_play_the_same(played, monkeypatch):
    restored = LoadedRun.open(played)
    maze = PointMaze(restored.run.config["env"])
    arm = Arm("reference", 0.0, 1)
    jobs = [Job((arm,), seed, 1, i) for seed in range(2) for i in range(4)]
    divided, one = loaded._sharding(2), jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert len(divided.device_set) == 2 and len(loaded._sharding(9).device_set) == 3
    found = []
    for where in (divided, one):
        monkeypatch.setattr(loaded, "_sharding", lambda count, where=where: where)
        results = {}
        DeviceSimulator(restored, maze, 2).rollout(jobs, results.__setitem__)
        found.append([{k: v for k, v in results[j].items() if k != "seconds"} for j in jobs])
    assert found[0] == found[1]
    assert found[0][:4] != found[0][4:]  # seeds differ


def test_command_line(played, tmp_path, capsys):
    folder = shutil.copytree(played, tmp_path / "run")
    words = ["evaluate", f"--workdir={folder}", "--methods=reference", "--episodes=8"]
    cli.main([*words, "--selection_episodes=0", "--envs=jax:8"])
    line = list(Lines.read(folder / "episodes.jsonl").records)[-1]
    assert (line["env"], line["episode"]) == ("pointmaze-medium-stitch-v0 (jax)", 15)
    capsys.readouterr()
    for wrong, hint in (
        (["--envs=jaxx"], "jax:NUMBER"),
        (["--envs=jax:-1"], "a whole number from 0"),
        (["--envs=jax", "--videos=1"], "--videos"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, *wrong])
        said = capsys.readouterr().err.strip()
        assert stop.value.code == 2 and hint in said and "\n" not in said


def test_what_has_no_simulator_on_the_device_is_refused(played, capsys, tmp_path):
    for name in ("cube-single-play-singletask-v0", "antmaze-medium-navigate-v0"):
        with pytest.raises(UserError, match="no simulator on the device"):
            PointMaze(name)
    with pytest.raises(UserError, match="unknown simulator"):
        evaluate.evaluate(played, SWEEP, simulator="mujocco")
    restored = LoadedRun.open(played)
    with pytest.raises(UserError, match="4 and actions 2 wide"):
        goals = PointMaze("pointmaze-medium-stitch-v0")
        DeviceSimulator(restored, goals, 2)
    folder = shutil.copytree(played, tmp_path / "run")
    record = (folder / "config.json").read_text()
    (folder / "config.json").write_text(record.replace('"mujoco"', '"jax"', 1))
    usage = evaluate.evaluate(folder, SWEEP, episodes=1, selection_episodes=1, workers=1)
    assert usage.episodes == 0  # a config speaks to the command line alone
