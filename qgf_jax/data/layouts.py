"""Layouts of npz files that are not OGBench's raw one, told by their keys. No JAX.

In the raw layout a row is a state and the action taken in it, `terminals` is 1 on the last row of each
trajectory, and that row's action is void. A file that says in another column where trajectories end,
or has the next observation in the same row, means something else by the same three keys.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from qgf_jax.errors import UserError

_REGULAR = "ogbench.utils.load_dataset's regular layout"
_COMPACT = "ogbench.utils.load_dataset's compact layout"
_D4RL = "D4RL's layout"
_GYMNASIUM = "Gymnasium's and Minari's layout"
_BUFFER = "robomimic's layout or a replay buffer's"
_STEPS = "RLDS's layout"
_EPISODES = "a layout with a column of episodes"
_KEYS = {
    _REGULAR: ("next_observations", "next_observation", "next_obs", "next_states"),
    _COMPACT: ("valids", "valid"),
    _D4RL: ("timeouts", "timeout", "infos/timeouts"),
    _GYMNASIUM: (
        "truncations", "truncation", "truncateds", "truncated",
        "terminations", "termination", "terminateds", "terminated",
    ),
    _BUFFER: ("dones", "done", "dones_float", "done_bool", "not_done", "final_observations"),
    _STEPS: ("is_first", "is_last", "is_terminal"),
    _EPISODES: (
        "episode_ends", "episode_starts", "episode_ids", "episode_id", "episode_index",
        "episode_lengths", "episode", "episodes", "ends", "traj_ends", "traj_lengths", "traj_id",
        "traj_ids", "trajectory_id", "trajectory_ids", "trajectory",
    ),
}  # fmt: skip
_LAYOUTS = {key: layout for layout, keys in _KEYS.items() for key in keys}


def check_keys(path: Path, keys: Iterable[str]) -> None:
    """Raises `UserError` if one of `keys` is a sign of another layout."""
    keys = {*keys}
    if keys >= {"terminated", "truncated"}:
        raise UserError(
            f"{path}: key 'terminated' is of a file of steps: run `qgf convert npz:{path}` and name the "
            "folder that it makes (docs/data.md)"
        )
    for key in sorted(keys):
        if layout := _LAYOUTS.get(key.lower()):
            raise _error(path, f"key {key!r}", layout)


def check_ends(path: Path, ends: np.ndarray) -> None:
    """Raises `UserError` if terminals [R] are those of the compact layout, whatever keys there are."""
    lengths = np.diff(np.flatnonzero(ends), prepend=-1)
    if len(lengths) % 2 == 0 and (lengths[1::2] == 1).all() and (lengths[::2] > 1).all():
        raise _error(path, "a trajectory that ends twice", _COMPACT)


def _error(path: Path, sign: str, layout: str) -> UserError:
    remedy = "use the original file" if "load_dataset" in layout else "rewrite it"
    return UserError(
        f"{path}: {sign} is of {layout}; only OGBench's raw one is read: {remedy} (docs/data.md)"
    )
