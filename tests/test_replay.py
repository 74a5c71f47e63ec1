"""Data are played again in an environment: those of another one, or of another version, are named."""

import json

import numpy as np
import pytest
from conftest import LONG, MAZE

from qgf_jax import cli
from qgf_jax.data.collect import collect
from qgf_jax.data.replay import replay
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.errors import UserError


def recorded(path, env, episodes=8, steps=30, **changes):
    """Rows of random episodes with MuJoCo's states as float32, as files keep them."""
    made, rng = Family.of(env).make(EnvName.parse(env)), np.random.default_rng(0)
    rows, over = [], True
    for episode in range(episodes):
        obs, over, t = made.reset(episode), False, 0
        while not over and t < steps:
            state = made.env.unwrapped.data
            row = {"qpos": state.qpos.copy(), "qvel": state.qvel.copy(), "observations": obs}
            row["actions"] = rng.uniform(-1, 1, made.action_dim)
            obs, row["rewards"], over, _ = made.step(row["actions"].astype(np.float32))
            rows.append({**row, "terminals": False})
            t += 1
        last = {"observations": obs, "rewards": 0.0, "terminals": True}
        rows.append({**row, "actions": np.zeros(made.action_dim), **last})
    columns = {
        key: np.array([row[key] for row in rows], bool if key == "terminals" else np.float32)
        for key in rows[0]
    }
    np.savez(path, **{k: v for k, v in {**columns, **changes}.items() if v is not None})
    return path


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("walks") / "walks.npz", "Walker2d-v5")


def test_data_of_the_environment_lead_where_they_led(walks, capsys):
    cli.main(["verify", "--replay", str(walks), "--env=Walker2d-v5"])
    found = json.loads(capsys.readouterr().out)
    assert found["sound"] and found["env"] == "Walker2d-v5" and found["transitions"] > 70
    assert found["observations"]["largest"] < 1e-3 and found["rewards"]["largest"] < 1e-3


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Walker2d-v4"])
def test_another_environment_or_version_of_the_same_widths_is_named(walks, name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", "--replay", str(walks), f"--env={name}"])
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "\n" not in said
    assert f"another next observation in {name}" in said and "walks.npz" in said


def test_rewards_of_another_version_are_named(tmp_path):
    """What Hopper-v4 gives for a fall, and v5 does not; all else is the same."""
    path = recorded(tmp_path / "hops.npz", "Hopper-v5", steps=200)
    replay(path, "Hopper-v5")
    with pytest.raises(UserError, match="another reward in Hopper-v4"):
        replay(path, "Hopper-v4")


def test_actions_of_another_row_are_noticed(walks, tmp_path):
    with np.load(walks) as file:
        columns = dict(file)
    columns["actions"] = np.roll(columns["actions"], 1, axis=0)
    np.savez(tmp_path / "late.npz", **columns)
    with pytest.raises(UserError, match="another next observation"):
        replay(tmp_path / "late.npz", "Walker2d-v5")


def test_what_no_format_records_is_not_compared(tmp_path):
    """D4RL's rows after a fall repeat the last observation; elsewhere that is another observation."""
    path = recorded(tmp_path / "hops.npz", "Hopper-v5", steps=200)
    with np.load(path) as file:
        columns = dict(file)
    last = np.flatnonzero(columns["terminals"])
    columns["observations"][last] = columns["observations"][last - 1]
    masks = np.ones(len(columns["terminals"]), np.float32)
    np.savez(path, **columns, masks=masks)
    with pytest.raises(UserError, match="another next observation in Hopper-v5"):
        replay(path, "Hopper-v5")
    masks[last - 1] = 0
    np.savez(path, **columns, masks=masks)
    assert replay(path, "Hopper-v5")["observations"]["largest"] < 1e-3
    with pytest.raises(UserError, match="another reward in Hopper-v4"):
        replay(path, "Hopper-v4")


def test_an_observation_that_is_no_number_is_another_one(walks, monkeypatch):
    made = type(Family.of("Walker2d-v5").make(EnvName.parse("Walker2d-v5")))
    step = made.step
    monkeypatch.setattr(made, "step", lambda *given: (step(*given)[0] * np.nan, 0.0, True, {}))
    with pytest.raises(UserError, match="another next observation"):
        replay(walks, "Walker2d-v5")


@pytest.mark.parametrize(
    ("env", "changes", "hint"),
    [
        ("Walker2d-v5", {"qvel": None}, "cannot be checked: it has no recorded state .qvel."),
        ("Hopper-v5", {}, "observations are 17 wide, Hopper-v5 has 11"),
        (
            "Walker2d-v5",
            {"qpos": np.zeros((248, 4), np.float32)},
            r"qpos of 4.*does not fit Walker2d",
        ),
        ("Pendulum-v1", {"observations": np.zeros((248, 3), np.float32)}, "cannot be put into"),
    ],
)
def test_what_cannot_be_checked_is_said(tmp_path, walks, env, changes, hint):
    with np.load(walks) as file:
        columns = {**file}
    n = len(columns["terminals"])
    for key, value in changes.items():
        columns[key] = None if value is None else np.resize(value, (n, value.shape[1]))
    if env == "Pendulum-v1":
        columns["actions"] = columns["actions"][:, :1]
    np.savez(tmp_path / "x.npz", **{k: v for k, v in columns.items() if v is not None})
    with pytest.raises(UserError, match=hint) as caught:
        replay(tmp_path / "x.npz", env)
    assert "\n" not in str(caught.value)


def test_the_flag_wants_the_environment(walks, capsys):
    for words in (["--replay", str(walks)], [str(walks), "--env=Walker2d-v5"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["verify", *words])
        assert stop.value.code == 2 and "go together" in capsys.readouterr().err


@pytest.mark.whole(but_every=2)
@pytest.mark.parametrize(
    "name",
    ["pointmaze-medium-stitch-v0", "cube-single-play-v0", *(["scene-play-v0"] if LONG else [])],
)
def test_what_experts_of_the_benchmark_did_can_be_done_again(name, tmp_path, maze_data):
    folder = maze_data
    if name != MAZE:
        folder = tmp_path
        collect(name, 2, folder, workers=2)
    found = replay(folder / f"{name}.npz", name)
    assert found["sound"] and found["observations"]["median"] < 0.06
    single = name.replace("-v0", "-singletask-v0")
    assert replay(folder / f"{name}.npz", single)["observations"] == found["observations"]
