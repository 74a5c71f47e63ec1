"""Relabelled rewards and masks against what the live environment gives along the same states."""

import numpy as np
import pytest

from qgf_jax.envs import ogbench


@pytest.mark.whole(but_every=4)
@pytest.mark.parametrize(
    "name",
    [
        "pointmaze-medium-navigate-singletask-task2-v0",
        "cube-single-play-singletask-task1-v0",
        "scene-play-singletask-task1-v0",
        "puzzle-3x3-play-singletask-task1-v0",
    ],
)
def test_labels_are_what_the_environment_says(name, tmp_path, monkeypatch):
    """The reward of step t is that of the state before it, as in single-task environments."""
    parsed = ogbench.FAMILY.parse(name)
    env = ogbench.FAMILY.gym(parsed.env_id)
    ogbench.FAMILY.reset(env, 0)
    rng = np.random.default_rng(0)
    qpos, buttons, rewards, done = [], [], [], []
    for t in range(40):
        if t == 20 and "maze" in name:  # where success is
            env.unwrapped.set_xy(np.array(env.unwrapped.cur_goal_xy))
        if t == 20 and "cube" in name:
            target = env.unwrapped._data.mocap_pos[0]
            env.unwrapped._data.joint("object_joint_0").qpos[:3] = target
            env.unwrapped.post_step()  # success is looked for after a step, and told at the next
        _, reward, terminated, _, info = env.step(rng.uniform(-1, 1, env.action_space.shape))
        qpos.append(info["prev_qpos"])
        buttons.append(info.get("prev_button_states", np.zeros(1)))
        rewards.append(reward)
        done.append(terminated)
        if terminated:
            break
    n = len(rewards)
    columns = {"qpos": np.array(qpos, np.float32), "button_states": np.array(buttons)}
    monkeypatch.setattr(ogbench, "_AT_ONCE", 9)  # of 40 rows
    labels, masks = ogbench._SimulatorLabels(parsed, env).rewards(columns, tmp_path)
    np.testing.assert_array_equal(labels, rewards)
    np.testing.assert_array_equal(masks, 1.0 - np.array(done))
    if "maze" in name or "cube" in name:
        assert done[-1] and labels[-1] == 0 and labels[:-1].max() == -1 and n == 21
    else:
        assert labels.max() < 0
