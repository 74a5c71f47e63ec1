"""Runs with goals, from the file to the report: real environments, all tasks from one checkpoint."""

import json

import jax
import numpy as np
import pytest
from conftest import tiny

from qgf_jax import config as configs
from qgf_jax import load_policy
from qgf_jax.data.formats import Rows
from qgf_jax.envs import ogbench
from qgf_jax.envs.families import EnvName
from qgf_jax.envs.pool import EnvPool
from qgf_jax.errors import UserError
from qgf_jax.evaluation import evaluate
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.summary import ALL_TASKS
from qgf_jax.report import report
from qgf_jax.runs.files import Lines
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.training.loop import pretrain

TASKS = (1, 3)


@pytest.fixture(scope="module")
def run(maze_data, tmp_path_factory):
    """Two seeds over long chunks, and a policy that never sees the goal."""
    config = tiny(
        "qgf",
        critic="dqc",
        **{"data.dir": str(maze_data), "data.n_step": 5, "seeds": 2, "networks.policy_goal": False},
    )
    return pretrain(config, tmp_path_factory.mktemp("goals") / "run")


def test_spec_has_the_goal_and_its_statistics_last(run):
    spec = LoadedRun.open(run).spec
    assert (spec.state, spec.goal, spec.n_step, spec.long_dim) == ((2,), (2,), 5, 10)
    assert spec.state_mean == spec.goal_mean  # a goal is an observation here
    assert (run / "calibration.npz").is_file()


def test_policy_takes_the_goal_apart_or_at_the_end(run):
    act = load_policy(run, "qgf", 2.0)
    obs, goals, key = np.ones((3, 2)), np.array([[1, 2], [5, 9], [9, 1.0]]), jax.random.key(0)
    actions = act(obs, key, goal=goals)
    np.testing.assert_array_equal(actions, act(np.concatenate([obs, goals], axis=1), key))
    np.testing.assert_array_equal(act(obs, key, goal=goals[0]), act(obs, key, goal=goals[[0] * 3]))
    with pytest.raises(UserError, match=r"wants \[2\]"):
        act(obs, key, goal=np.zeros(3))
    with pytest.raises(UserError, match="the goal's 2 last"):
        act(obs, key)
    with pytest.raises(UserError, match="3 observations and 2 goals"):
        act(obs, key, goal=goals[:2])
    assert act(obs[0], key, goal=goals).shape == (3, 3, 2)  # one observation, many goals


@pytest.mark.whole
def test_all_tasks_come_from_one_checkpoint_and_one_weight_is_chosen_for_them(run):
    sweep = Arm.sweep(["reference", "qgf"], [0.5, 1.0])
    evaluate.evaluate(
        run, sweep, episodes=1, selection_episodes=1, tasks=TASKS, envs=2, report_selected=True
    )
    lines = list(Lines.read(run / "episodes.jsonl").records)
    assert {line["env"] for line in lines} == {"pointmaze-medium-stitch-v0"}
    assert {line["task"] for line in lines} == set(TASKS)
    reported = {(x["method"], x["weight"], x["task"]) for x in lines if x["split"] == "report"}
    assert len(reported) == 4  # the reference and one weight of qgf, on both tasks
    table = report.write(run)
    assert "| all " in table
    rows = json.loads((run / "report" / "summary.json").read_text())["rows"]
    together = [r for r in rows if r["task"] == ALL_TASKS and r["split"] == "report"]
    assert {(r["method"], r["episodes"], r["seeds"]) for r in together} == {
        ("reference", 4, 2), ("qgf", 4, 2),
    }  # fmt: skip
    assert all(r["selected"] for r in together)
    for row in together:
        apart = [r for r in rows if r["task"] in TASKS and r["split"] == "report"]
        mine = [r["return"]["mean"] for r in apart if r["method"] == row["method"]]
        assert row["return"]["mean"] == pytest.approx(np.mean(mine))
    assert (run / "report" / "trajectories.png").stat().st_size > 0


def test_evaluation_without_tasks_means_all_five():
    name = EnvName.parse("cube-single-play-v0")
    assert name.tasks == (1, 2, 3, 4, 5) and name.with_task(2).tasks == (2,)
    assert EnvName.parse("cube-single-play-singletask-task4-v0").tasks == (4,)


@pytest.mark.parametrize(
    ("text", "env_id", "label"),
    [
        ("pointmaze-large-stitch-v0", "pointmaze-large-v0", "pointmaze-large-stitch-v0"),
        ("puzzle-4x4-play-task3-v0", "puzzle-4x4-v0", "puzzle-4x4-play-v0"),
        ("cube-triple-play-oraclerep-v0", "cube-triple-v0", "cube-triple-play-oraclerep-v0"),
        ("cube-single-play-oraclerep-task2-v0", "cube-single-v0", "cube-single-play-oraclerep-v0"),
    ],
)
def test_names_with_goals(text, env_id, label):
    name = EnvName.parse(text)
    assert (name.env_id, name.label, name.full) == (env_id, label, text)
    assert "oraclerep" not in name.dataset and "task" not in name.dataset


def test_observations_end_with_the_environments_goal_and_repeat():
    world = ogbench.FAMILY.make("cube-single-play-task2-v0")
    first = world.reset(3)
    size = world.env.observation_space.shape[0]
    assert first.shape == (2 * size,)
    after, reward, done, info = world.step(np.zeros(5))
    np.testing.assert_array_equal(after[size:], first[size:])
    assert (reward, done, info["success"]) == (0.0, False, 0.0)
    with EnvPool("cube-single-play-task2-v0", 1, 1) as pool:
        np.testing.assert_allclose(pool.reset([0], [3])[0], first, rtol=1e-6)


@pytest.mark.parametrize("name", ["pointmaze-medium-navigate", "cube-single-play-oraclerep"])
def test_every_task_has_its_own_goal(name):
    goals = []
    for task in (1, 2, 3):
        world = ogbench.FAMILY.make(f"{name}-task{task}-v0")
        obs = world.reset(0)
        assert world.env.unwrapped.cur_task_id == task
        goals.append(obs[world.env.observation_space.shape[0] :].round(1).tolist())
    assert len({tuple(goal) for goal in goals}) == 3


def test_oracle_goals_of_the_data_are_those_of_the_environment():
    """The simulator's own representation of a state, against that computed from the file."""
    world = ogbench.FAMILY.make("cube-single-play-oraclerep-task2-v0")
    obs = world.reset(0)
    env = world.env.unwrapped
    goal = env.compute_oracle_observation()
    assert obs.shape == (world.env.observation_space.shape[0] + len(goal),)
    rows = _one_row(env)
    found = ogbench.FAMILY.labels(world.name).goals(rows.info, "file")
    np.testing.assert_allclose(found[0], goal, atol=1e-5)


def _one_row(env):
    from qgf_jax.data.formats import Rows

    state = env._data.qpos.copy()[None]
    return Rows(np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1, bool), {"qpos": state})


def test_data_without_the_simulators_state_has_no_oracle_goals(maze_data):
    rows = Rows.read(maze_data / "pointmaze-medium-stitch-v0.npz")._replace(info={})
    name = EnvName.parse("pointmaze-medium-stitch-oraclerep-v0")
    with pytest.raises(UserError, match="'qpos' is missing, and the goals"):
        ogbench.FAMILY.labels(name).goals(rows.info, "file")


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        ({"algorithm": "gcbc"}, "'gcbc' needs an environment with goals"),
        ({"critic": "contrastive"}, "needs an environment with goals"),
        ({"critic": "dqc"}, "with sigmoid outputs"),
        ({"networks.critic_output": "sigmoid"}, "needs an environment with goals"),
        ({"goals.critic": "(0.5,0.2,0.2)"}, "three probabilities"),
        ({"goals.actor": "(0.5,0.5)"}, "three probabilities"),
        ({"env": "cube-single-play-v0", "networks.critic_output": "sigmoid"}, "between 0 and 1"),
        ({"env": "cube-single-play-oraclerep-v0", "algorithm": "hiql"}, "that are observations"),
        (
            {"env": "cube-single-play-v0", "algorithm": "hiql", "goals.subgoal_steps": "0"},
            "subgoal_steps is 0",
        ),
        ({"env": "cube-single-play-v0", "data.sparse": "true"}, "are for single tasks"),
        ({"data.n_step": "3"}, "at least data.chunk"),
        ({"networks.critic_form": "bilinear"}, "belongs to critic=contrastive"),
        ({"goals.actor": "('a','b','c')"}, "three probabilities"),
    ],
)
def test_settings_that_do_not_fit_goals_are_explained(overrides, hint):
    path = configs.__file__.replace("qgf_jax/config.py", "experiments/configs/ogbench.py")
    with pytest.raises(UserError, match=hint):
        configs.load(path, overrides)
