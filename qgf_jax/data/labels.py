"""Rewards and goals of data that have none: from the simulator's state, by the benchmark's own rules."""

import types
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.data.formats import Rows
from qgf_jax.envs import mazes, ogbench
from qgf_jax.errors import UserError


def relabel(
    rows: Rows, path: Path, env: Any, name: ogbench.EnvName
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and task masks [R] of the environment's task, by OGBench's own rule.

    It works in float64, so rows go to it a few at a time, and the task is set once. Of a point maze,
    where `env` may be a `mazes.Maze`, the rule needs no simulator.
    """
    state = _state(rows, path, env, name, "the rewards come")
    if isinstance(env, mazes.Maze):
        return env.label(state["qpos"], name.task)
    from ogbench.relabel_utils import relabel_dataset

    env.reset()  # sets the task
    still = types.SimpleNamespace(unwrapped=env.unwrapped, reset=lambda: None)
    rewards, masks = np.empty((2, len(rows.ends)), np.float32)
    for start in range(0, len(rewards), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        labelled = {key: array[some] for key, array in state.items()}
        try:
            relabel_dataset(name.env_id, still, labelled)
        except (IndexError, ValueError) as error:
            raise UserError(f"{path}: qpos does not fit {name.env_id}: {error}") from None
        rewards[some], masks[some] = labelled["rewards"], labelled["masks"]
    return rewards, masks


_AT_ONCE = 8192


def oracle_goals(rows: Rows, path: Path, env: Any, name: ogbench.EnvName) -> np.ndarray:
    """What a row is as a goal [R, G], by OGBench's own rule, for the names with -oraclerep-."""
    labelled = _state(rows, path, env, name, "the goals come")
    if isinstance(env, mazes.Maze):  # where the ball is
        return labelled["qpos"]
    from ogbench.relabel_utils import add_oracle_reps

    try:
        add_oracle_reps(name.env_id, env, labelled)
    except (IndexError, ValueError) as error:
        raise UserError(f"{path}: qpos does not fit {name.env_id}: {error}") from None
    return labelled["oracle_reps"]


def _state(
    rows: Rows, path: Path, env: Any, name: ogbench.EnvName, what: str
) -> dict[str, np.ndarray]:
    """The simulator's state, as OGBench's functions take and extend it."""
    needs = ["qpos"] + ["button_states"] * name.scene.startswith(("scene", "puzzle"))
    for key in needs:
        if key not in rows.info:
            raise UserError(f"{path}: key {key!r} is missing, and {what} from it")
    try:
        wanted = mazes.WIDTHS[0] if isinstance(env, mazes.Maze) else env.unwrapped.model.nq
    except ValueError:  # manipulation has no model before its first reset
        wanted = None
    if wanted not in (None, found := rows.info["qpos"].shape[1]):
        raise UserError(f"{path}: qpos is {found} wide, {name.env_id} has {wanted}")
    return dict(rows.info)


def transform(
    rewards: np.ndarray, *, reward_scale: float, reward_shift: float, sparse: bool
) -> np.ndarray:
    """scale * reward + shift, of -1[reward != 0] if `sparse`. Training and validation alike."""
    rewards = np.where(rewards != 0, -1.0, 0.0) if sparse else rewards
    return reward_scale * rewards + reward_shift
