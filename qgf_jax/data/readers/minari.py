"""Datasets of Minari (Younis et al., 2024), read with the library itself, and never downloaded.

An episode has one observation more than actions, and says whether it terminated or was truncated.
Observations of dictionaries are flattened in the order of their sorted keys. The environment that a
dataset carries is kept by its Gymnasium id and options alone: its metadata also name a function to call,
which nobody calls.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.data.readers import hdf5
from qgf_jax.data.readers.recording import ALL, Choice, Episode, Recording, check_size, reading
from qgf_jax.envs import spaces
from qgf_jax.errors import UserError

_INFO = ("qpos", "qvel")
_REFERENCES = ("ref_min_score", "ref_max_score")


def open_recording(place: str, choice: Choice = ALL) -> Recording:
    """The episodes of a local dataset, by its id or folder. Raises `UserError` if there is none."""
    where = f"minari:{place}"
    if choice.actions or choice.split or choice.ends:
        raise UserError(f"{where}: Minari's datasets have no actions, splits or ends to choose")
    folder = _folder(place)
    dataset = _dataset(where, folder)
    parts = spaces.parts(where, dataset.observation_space, choice.observations)
    bounds = spaces.bounds(where, dataset.action_space)
    metadata = _metadata(where, folder)
    about = {
        "format": "minari",
        "version": metadata["minari_version"],
        "dataset": metadata["dataset_id"],
        "observations": [[key or "observations", width] for key, width in parts],
        "actions": "actions",
        **_environment(metadata),
    }
    name = metadata["dataset_id"].replace("/", "-")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Recording(
        where, name, about, hdf5.sha256(*files), bounds, lambda: _episodes(where, dataset, parts)
    )


def recorded_environment(place: str) -> dict[str, Any]:
    """The `id`, `options` and `max_episode_steps` of the environment that a local dataset carries.

    Raises `UserError` if it carries none, or is not there.
    """
    found = _environment(_metadata(f"minari:{place}", _folder(place)))
    if "environment" not in found:
        raise UserError(
            f"minari:{place} carries no environment: name one of Gymnasium's, as --config.env=Hopper-v5"
        )
    return found["environment"]


def _folder(place: str) -> Path:
    """Where the dataset's `data` lies: under a folder of that name, or where Minari keeps datasets."""
    root = os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets"
    here, kept = Path(place).expanduser(), Path(root).expanduser() / place
    for folder in (here, here / "data", kept / "data"):
        if (folder / "metadata.json").is_file():
            return folder
    raise UserError(
        f"minari:{place}: there is no such dataset in {kept.parent if '/' not in place else root}: run "
        f"`minari download {place}`"
    )


def _metadata(where: str, folder: Path) -> Mapping[str, Any]:
    """What the dataset says of itself. Raises `UserError` unless it names its spaces.

    Without them Minari would make the environment that the file describes, by a function that the file
    names.
    """
    try:
        found = json.loads((folder / "metadata.json").read_bytes())
        texts = {key: found[key] for key in ("dataset_id", "minari_version", "data_format")}
        known = all(isinstance(text, str) for text in texts.values())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where}: metadata.json cannot be read ({error!r}): fetch it again"
        ) from None
    if not known or not isinstance(found.get("observation_space"), str):
        raise UserError(f"{where}: metadata.json says no observation_space: fetch it again")
    if not isinstance(found.get("action_space"), str):
        raise UserError(f"{where}: metadata.json says no action_space: fetch it again")
    return found


def _dataset(where: str, folder: Path) -> Any:
    metadata = _metadata(where, folder)
    try:
        import minari
    except ImportError:
        raise UserError(
            f"{where} needs minari, which is not installed: run `pip install 'qgf-jax[minari]'`"
        ) from None
    if metadata["data_format"] == "hdf5":
        hdf5.library("minari")
    with reading(where, "minari", AssertionError, NotImplementedError, ImportError):
        return minari.MinariDataset(folder)


def _environment(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The Gymnasium id and options, and the returns that count as 0 and 1, where it has them."""
    found: dict[str, Any] = {}
    for key in ("eval_env_spec", "env_spec"):
        try:
            spec = json.loads(metadata[key])
            found["environment"] = {
                "id": str(spec["id"]),
                "options": dict(spec.get("kwargs") or {}),
                "max_episode_steps": spec.get("max_episode_steps"),
            }
            break
        except (KeyError, TypeError, ValueError):
            continue
    scores = [metadata[key] for key in _REFERENCES if isinstance(metadata.get(key), (int, float))]
    if len({*scores}) == 2:
        found["references"] = [float(score) for score in scores]
    return found


def _episodes(where: str, dataset: Any, parts: spaces.Parts) -> Iterator[Episode]:
    if dataset.storage.FORMAT == "hdf5":
        _check_declared(where, Path(dataset.storage.data_path))
    with reading(where, "minari", AssertionError, NotImplementedError):
        for episode in dataset.iterate_episodes():
            yield _episode(f"{where}: episode {episode.id}", episode, parts)


def _check_declared(where: str, folder: Path) -> None:
    """Raises `UserError` if an episode's arrays lie in another file, or take more than there is."""
    path = folder / "main_data.hdf5"
    with hdf5.opened(path) as file:
        for name in hdf5.groups(path, file):
            _check_group(where, path, file[name])


def _check_group(where: str, path: Path, group: Any) -> None:
    for key in ("actions", "rewards", "terminations", "truncations"):
        array = hdf5.numbers(path, group, key)
        check_size(where, array.size * array.dtype.itemsize, path.stat().st_size)
    _check_observations(where, path, group, "observations")


def _check_observations(where: str, path: Path, group: Any, key: str) -> None:
    h5py = hdf5.library("minari")
    if isinstance(group.get(key, getlink=True), h5py.HardLink) and isinstance(
        group[key], h5py.Group
    ):
        for part in group[key]:
            _check_observations(where, path, group[key], part)
        return
    array = hdf5.numbers(path, group, key)
    check_size(where, array.size * array.dtype.itemsize, path.stat().st_size)


def _episode(where: str, episode: Any, parts: spaces.Parts) -> Episode:
    terminated, truncated = (np.asarray(x) for x in (episode.terminations, episode.truncations))
    length = len(episode.rewards)
    if not len(terminated) == len(truncated) == length:
        raise UserError(
            f"{where}: terminations and truncations are not as many as rewards, {length}"
        )
    early = np.flatnonzero((terminated | truncated)[:-1])
    if early.size:
        raise UserError(f"{where} ends in step {early[0]} and goes on: record it again")
    if length and not (terminated[-1] or truncated[-1]):
        # The library cuts an episode that is still running when the dataset is closed.
        truncated = np.append(truncated[:-1], True)
    observations = spaces.rows(where, episode.observations, parts)
    infos = episode.infos or {}
    info = {
        key: np.asarray(infos[key])
        for key in _INFO
        if key in infos and len(infos[key]) == len(observations)
    }
    return Episode(
        observations,
        np.asarray(episode.actions).reshape(length, -1),
        np.asarray(episode.rewards),
        bool(length and terminated[-1]),
        info,
    )
