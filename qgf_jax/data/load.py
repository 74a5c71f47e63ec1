"""From a config to a dataset that is ready for the device. No JAX here: bad files fail fast."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data import chunks, formats
from qgf_jax.data.chunks import Dataset, GoalDataset
from qgf_jax.data.formats import Rows
from qgf_jax.envs import ogbench
from qgf_jax.errors import UserError


class Loaded(NamedTuple):
    """A run's data on the host."""

    dataset: Dataset | GoalDataset
    validation: Dataset | GoalDataset | None
    """From the -val file, if there is one."""
    spec: dict[str, Any]
    """The fields of `types.Spec`."""
    fingerprint: dict[str, Any]
    """What the run was trained on: file name, SHA-256, rows."""


def load(config: Mapping[str, Any]) -> Loaded:
    """Finds, reads, checks, relabels and chunks the data of a resolved config."""
    options, name = config["data"], ogbench.parse(config["env"])
    path = formats.find(name.dataset, options["dir"])
    rows = formats.read_rows(path)
    env = ogbench.World(name).env
    dataset = _prepare(rows, path, env, name, options)
    validation, val_path = None, path.with_name(f"{path.stem}-val.npz")
    if val_path.is_file():
        val_rows = formats.read_rows(val_path)
        validation = _prepare(val_rows, val_path, env, name, options)
        check_alike(rows, val_rows, val_path)
    env.close()
    spec: dict[str, Any] = {
        "obs_dim": rows.observations.shape[1],
        "action_dim": rows.actions.shape[1],
        "chunk": options["chunk"],
        "backup": options["backup"],
    }
    seen = [rows.observations]
    if isinstance(dataset, GoalDataset):
        seen.append(dataset.obs if dataset.goal is None else dataset.goal)
        spec["goal_dim"] = seen[1].shape[1]
        spec["obs_dim"] += seen[1].shape[1]
    if options["standardize"]:
        found = [statistics(rows.observations)]
        found += [
            found[0] if array is rows.observations else statistics(array) for array in seen[1:]
        ]
        spec |= {key: sum((f[key] for f in found), ()) for key in found[0]}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    fingerprint = {"file": path.name, "sha256": digest, "rows": len(rows.ends), **describe(rows)}
    return Loaded(dataset, validation, spec, fingerprint)


def statistics(observations: np.ndarray) -> dict[str, tuple[float, ...]]:
    """Mean and spread [O] of the data; a dimension that never moves gets spread 1."""
    mean = observations.mean(axis=0, dtype=np.float64)
    std = observations.std(axis=0, dtype=np.float64)
    return {
        "obs_mean": tuple(mean.tolist()),
        "obs_std": tuple(np.where(std < 1e-6, 1.0, std).tolist()),
    }


def describe(rows: Rows) -> dict[str, Any]:
    """What a run's record says of its data, so that two runs can be compared without the files."""
    lengths = np.diff(np.flatnonzero(rows.ends), prepend=-1)
    obs = rows.observations
    return {
        "trajectories": len(lengths),
        "rows_per_trajectory": [int(lengths.min()), int(lengths.max())],
        "obs_min": [float(x) for x in obs.min(axis=0)],
        "obs_max": [float(x) for x in obs.max(axis=0)],
        "actions_at_bounds": float((np.abs(rows.actions[~rows.ends]) > 0.999).mean()),
    }


def check_alike(rows: Rows, val_rows: Rows, path: Path) -> None:
    """Raises `UserError` if validation data lie, on average, far from all training data."""
    mean = val_rows.observations.mean(axis=0, dtype=np.float64)
    low, high = rows.observations.min(axis=0), rows.observations.max(axis=0)
    # A range on either side: a few short episodes may well be where the others were not.
    slack = high - low + 1e-4 * np.maximum(1.0, np.maximum(abs(low), abs(high)))
    outside = np.flatnonzero((mean < low - slack) | (mean > high + slack))
    if outside.size:
        i = int(outside[0])
        raise UserError(
            f"{path}: the mean of observation {i} is {mean[i]:.4g}, training data have {low[i]:.4g} to "
            f"{high[i]:.4g}: this is another dataset's file"
        )


def _prepare(
    rows: Rows, path: Path, env: Any, name: ogbench.Name, options: Mapping[str, Any]
) -> Dataset | GoalDataset:
    widths = (env.observation_space.shape[0], env.action_space.shape[0])
    for key, array, width in zip(("observations", "actions"), rows[:2], widths, strict=True):
        if array.shape[1] != width:
            raise UserError(
                f"{path}: {key} are {array.shape[1]} wide, {name.env_id} has {width}: "
                "this is another environment's file"
            )
    steps = max(options["chunk"], options["backup"])
    if (n := int((~rows.ends).sum())) < steps:
        what = "chunk" if steps == options["chunk"] else "backup"
        raise UserError(f"{path}: the dataset has {n} transitions, fewer than data.{what}={steps}")
    if name.goals:
        goal = oracle_goals(rows, path, env, name) if name.goals == "oraclerep" else None
        return chunks.prepare_goals(rows, goal, action_clip=options["action_clip"])
    rewards, masks = relabel(rows, path, env, name)
    if options["masks"] == "trajectory":
        masks = chunks.trajectory_masks(rows.ends)
    return chunks.prepare(
        rows,
        transform(rewards, **{k: options[k] for k in ("reward_scale", "reward_shift", "sparse")}),
        masks,
        chunk=options["chunk"],
        discount=options["discount"],
        backup=options["backup"],
        action_clip=options["action_clip"],
    )


def relabel(rows: Rows, path: Path, env: Any, name: ogbench.Name) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and task masks [R] of the environment's task, by OGBench's own rule."""
    from ogbench.relabel_utils import relabel_dataset

    labelled = _state(rows, path, env, name, "the rewards come")
    try:
        relabel_dataset(name.env_id, env, labelled)
    except (IndexError, ValueError) as error:
        raise UserError(f"{path}: qpos does not fit {name.env_id}: {error}") from None
    return labelled["rewards"], labelled["masks"]


def oracle_goals(rows: Rows, path: Path, env: Any, name: ogbench.Name) -> np.ndarray:
    """What a row is as a goal [R, G], by OGBench's own rule, for the names with -oraclerep-."""
    from ogbench.relabel_utils import add_oracle_reps

    labelled = _state(rows, path, env, name, "the goals come")
    try:
        add_oracle_reps(name.env_id, env, labelled)
    except (IndexError, ValueError) as error:
        raise UserError(f"{path}: qpos does not fit {name.env_id}: {error}") from None
    return labelled["oracle_reps"]


def _state(
    rows: Rows, path: Path, env: Any, name: ogbench.Name, what: str
) -> dict[str, np.ndarray]:
    """The simulator's state, as OGBench's functions take and extend it."""
    needs = ["qpos"] + ["button_states"] * name.scene.startswith(("scene", "puzzle"))
    for key in needs:
        if key not in rows.info:
            raise UserError(f"{path}: key {key!r} is missing, and {what} from it")
    try:
        wanted = env.unwrapped.model.nq
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
