"""Writers of other people's formats, for tests: the same episodes in each."""

import json
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Played(NamedTuple):
    """An episode as it was played."""

    observations: np.ndarray
    """[T + 1, 3]"""
    actions: np.ndarray
    """[T, 2]"""
    rewards: np.ndarray
    terminated: bool


def episodes(count=4, length=6, seed=0):
    """Episodes of `length` steps and more, the even ones of which terminate."""
    generator = np.random.default_rng(seed)
    made = []
    for i in range(count):
        steps = length + i
        observations = np.cumsum(generator.normal(size=(steps + 1, 3)), axis=0).astype(np.float32)
        actions = generator.uniform(-1, 1, (steps, 2)).astype(np.float32)
        made.append(Played(observations, actions, actions.sum(axis=1), i % 2 == 0))
    return made


def d4rl_columns(played, *, following=False):
    """The arrays of a D4RL file."""
    ends = [np.arange(len(e.actions)) == len(e.actions) - 1 for e in played]
    columns = {
        "observations": np.concatenate([e.observations[:-1] for e in played]),
        "actions": np.concatenate([e.actions for e in played]),
        "rewards": np.concatenate([e.rewards for e in played]),
        "terminals": np.concatenate([x & e.terminated for x, e in zip(ends, played, strict=True)]),
        "timeouts": np.concatenate(
            [x & (not e.terminated) for x, e in zip(ends, played, strict=True)]
        ),
    }
    if following:
        columns["next_observations"] = np.concatenate([e.observations[1:] for e in played])
    return columns


def steps_columns(played):
    """The arrays of a file of steps, with what came after each."""
    columns = d4rl_columns(played, following=True)
    columns["terminated"], columns["truncated"] = columns.pop("terminals"), columns.pop("timeouts")
    return columns


def write_hdf5(path, tree, attributes=None):
    """Nested dictionaries of arrays as groups and datasets; `attributes`: {group: {name: value}}."""
    import h5py

    def write(group, inner):
        for key, value in inner.items():
            if isinstance(value, dict):
                write(group.create_group(key), value)
            elif callable(value):
                value(group, key)
            else:
                group[key] = value

    with h5py.File(path, "w") as file:
        write(file, tree)
        for name, values in (attributes or {}).items():
            file[name].attrs.update(values)
    return path


def sparse(played):
    """The same with a reward of 1 where the task ended, and none before."""
    rewards = [np.float32(np.arange(len(e.actions)) == len(e.actions) - 1) for e in played]
    return [e._replace(rewards=e.terminated * r) for e, r in zip(played, rewards, strict=True)]


def robomimic_tree(played, *, following=True, masks=True):
    """The groups of a robomimic file, its observations in two parts, its rewards sparse."""
    demos = {}
    for i, e in enumerate(sparse(played)):
        done = np.zeros(len(e.actions))
        done[-1] = e.terminated
        demos[f"demo_{i}"] = {
            "actions": e.actions,
            "actions_abs": 2 * e.actions,
            "rewards": e.rewards,
            "dones": done,
            "states": np.zeros((len(e.actions), 5)),
            "obs": {"object": e.observations[:-1, 2:], "arm": e.observations[:-1, :2]},
        }
        if following:
            demos[f"demo_{i}"]["next_obs"] = {
                "object": e.observations[1:, 2:],
                "arm": e.observations[1:, :2],
            }
    tree = {"data": demos}
    if masks:
        names = [f"demo_{i}".encode() for i in range(len(played))]
        tree["mask"] = {"train": np.array(names[:-1]), "valid": np.array(names[-1:])}
    return tree


ENV_ARGS = {
    "data": {
        "env_args": json.dumps(
            {
                "env_name": "Lift",
                "env_version": "1.4.1",
                "type": 1,
                "env_kwargs": {"controller_configs": {"control_delta": True}},
            }
        )
    }
}


def write_robomimic(path, played, **options):
    return write_hdf5(path, robomimic_tree(played, **options), ENV_ARGS)


def write_minari(identity, played, **options):
    """A dataset in MINARI_DATASETS_PATH, by Minari's own writer."""
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    buffers = []
    for i, e in enumerate(played):
        last = np.arange(len(e.actions)) == len(e.actions) - 1
        buffers.append(
            EpisodeBuffer(
                id=i,
                observations=options.get("observe", lambda x: x)(e.observations),
                actions=e.actions,
                rewards=list(map(float, e.rewards)),
                terminations=list(map(bool, last & e.terminated)),
                truncations=list(map(bool, last & (not e.terminated))),
                infos=options.get("infos"),
            )
        )
    with warnings.catch_warnings():  # of an author and the like
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            identity,
            buffers,
            env=options.get("env"),
            observation_space=options.get("observation_space", Box(-100, 100, (3,), np.float32)),
            action_space=options.get("action_space", Box(-1, 1, (2,), np.float32)),
            data_format=options.get("data_format", "hdf5"),
        )
    dataset.storage.update_metadata(options.get("metadata", {}))
    return dataset


def write_lerobot(folder, played, *, version="v3.0", success=True, change=None):
    """A folder by its documented layout; `change(columns)` may spoil the frames of all episodes."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    folder = Path(folder)
    (folder / "meta").mkdir(parents=True)
    frames = sum(len(e.actions) for e in played)
    features = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": None},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "observation.images.top": {"dtype": "video", "shape": [8, 8, 3], "names": None},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
        **{k: {"dtype": "int64", "shape": [1], "names": None} for k in _NUMBERS},
    }
    if success:
        features["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    info = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(played),
        "total_frames": frames,
        "fps": 30,
        "splits": {"train": f"0:{len(played) - 1}", "test": f"{len(played) - 1}:{len(played)}"},
        "features": features,
    }
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    tables = []
    for i, e in enumerate(played):
        n = len(e.actions)
        columns = {
            "observation.state": pa.array([*e.observations[:-1]], pa.list_(pa.float32())),
            "action": pa.array([*e.actions], pa.list_(pa.float32(), 2)),
            "episode_index": np.full(n, i),
            "frame_index": np.arange(n),
            "index": np.arange(n),
            "timestamp": np.arange(n) / 30,
            "task_index": np.zeros(n, int),
            "next.reward": e.rewards.astype(np.float32),
            "next.done": np.arange(n) == n - 1,
        }
        if success:
            columns["next.success"] = (np.arange(n) == n - 1) & e.terminated
        if change:
            change(i, columns)
        tables.append(pa.table(columns))
    lengths = [len(e.actions) for e in played]
    if version == "v2.1":
        lines = [json.dumps({"episode_index": i, "length": n}) for i, n in enumerate(lengths)]
        (folder / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "meta" / "tasks.jsonl").write_text('{"task_index": 0, "task": "lift the cube"}\n')
        for i, table in enumerate(tables):
            path = folder / "data" / "chunk-000" / f"episode_{i:06d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, path)
        return folder
    for name, table in {
        "meta/episodes/chunk-000/file-000": pa.table(
            {"episode_index": list(range(len(lengths))), "length": lengths}
        ),
        "meta/tasks": pa.table({"task_index": [0], "task": ["lift the cube"]}),
        "data/chunk-000/file-000": pa.concat_tables(tables[:2]),
        "data/chunk-000/file-001": pa.concat_tables(tables[2:]) if tables[2:] else None,
    }.items():
        if table is not None:
            path = folder / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, path)
    return folder


_NUMBERS = ("episode_index", "frame_index", "index", "task_index")
