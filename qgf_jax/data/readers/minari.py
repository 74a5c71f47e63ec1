"""Datasets of Minari (Younis et al., 2024), read with the library itself, and never downloaded.

An episode has one observation more than actions, and says whether it terminated or was truncated.
Observations of dictionaries are flattened in the order of their sorted keys.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.data.readers import hdf5
from qgf_jax.data.readers.recording import ALL, Choice, Episode, Recording, check_size, reading
from qgf_jax.envs import carried, spaces
from qgf_jax.errors import UserError

_INFO = ("qpos", "qvel")


def open_recording(place: str, choice: Choice = ALL) -> Recording:
    """The episodes of a local dataset, by its id or folder. Raises `UserError` if there is none."""
    where = f"minari:{place}"
    if choice.actions or choice.split or choice.ends:
        raise UserError(f"{where}: Minari's datasets have no actions, splits or ends to choose")
    folder = carried.folder_of(place)
    dataset = _dataset(where, folder)
    parts = spaces.parts(where, dataset.observation_space, choice.observations)
    bounds = spaces.bounds(where, dataset.action_space)
    metadata = carried.metadata_of(where, folder)
    about = {
        "format": "minari",
        "version": metadata["minari_version"],
        "dataset": metadata["dataset_id"],
        "observations": [[key or "observations", width] for key, width in parts],
        "actions": "actions",
        **carried.described(metadata),
    }
    name = metadata["dataset_id"].replace("/", "-")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Recording(
        where, name, about, hdf5.sha256(*files), bounds, lambda: _episodes(where, dataset, parts)
    )


def _dataset(where: str, folder: Path) -> Any:
    metadata = carried.metadata_of(where, folder)
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
