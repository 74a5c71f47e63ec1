"""Datasets of Minari (Younis et al., 2024), read with the library itself, and never downloaded.

An episode has one observation more than actions, and says whether it terminated or was truncated.
Observations of dictionaries are flattened in the order of their sorted keys, or of the chosen ones.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.data.formats import check_size
from qgf_jax.data.readers.hdf5 import Hdf5File
from qgf_jax.data.readers.recording import ALL, OPENERS, Choice, Episode, Recording
from qgf_jax.envs import spaces
from qgf_jax.envs.carried import Carried
from qgf_jax.envs.spaces import Parts
from qgf_jax.errors import UserError, log_once

_INFO = ("qpos", "qvel")


@OPENERS.declare
def _open_recording(place: str, choice: Choice = ALL) -> Recording:
    """The episodes of a local dataset, by its id or folder. Raises `UserError` if there is none."""
    where = f"minari:{place}"
    if choice.actions or choice.split or choice.ends:
        raise UserError(f"{where}: Minari's datasets have no actions, splits or ends to choose")
    carried = Carried.of(place)
    dataset = _dataset(where, carried)
    parts = Parts.of(where, dataset.observation_space, choice.observations)
    bounds = spaces.bounds(where, dataset.action_space)
    metadata, folder = carried.metadata, carried.folder
    about = {
        "format": "minari",
        "version": metadata["minari_version"],
        "dataset": metadata["dataset_id"],
        "observations": [[key or "observations", width] for key, width in parts.widths],
        "actions": "actions",
        **carried.about,
    }
    name = metadata["dataset_id"].replace("/", "-")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Recording(
        where,
        name,
        about,
        Recording.digest(*files),
        bounds,
        lambda: _episodes(where, dataset, parts),
        files=tuple(files),
    )


def _dataset(where: str, carried: Carried) -> Any:
    try:
        import minari
    except ImportError:
        raise UserError(
            f"{where} needs minari, which is not installed: run `pip install 'qgf-jax[minari]'`"
        ) from None
    if carried.metadata["data_format"] == "hdf5":
        Hdf5File.library("minari")
    with Recording.reading(where, "minari", AssertionError, NotImplementedError, ImportError):
        return minari.MinariDataset(carried.folder)


def _episodes(where: str, dataset: Any, parts: Parts) -> Iterator[Episode]:
    if dataset.storage.FORMAT == "hdf5":
        _check_declared(where, Path(dataset.storage.data_path), dataset.total_episodes)
    with Recording.reading(where, "minari", AssertionError, NotImplementedError):
        for episode in dataset.iterate_episodes():
            yield _episode(f"{where}: episode {episode.id}", episode, parts)


def _check_declared(where: str, folder: Path, episodes: int) -> None:
    """Raises `UserError` if an episode's arrays lie in another file, or take more than there is.

    `episodes`: how many there are by the metadata.
    """
    with Hdf5File.open(folder / "main_data.hdf5") as file:
        names = file.groups(file.root)
        if len(names) != episodes:
            raise UserError(
                f"{where}: main_data.hdf5 cannot be all of it: it has {len(names)} episodes, "
                f"metadata.json says {episodes}: fetch it again"
            )
        for name in names:
            group = file.root[name]
            for key in ("actions", "rewards", "terminations", "truncations", "observations"):
                _check_array(where, file, group, key)
            if "infos" in group:  # Minari reads all of them, texts too
                _check_array(where, file, group, "infos", numbers=False)


def _check_array(where: str, file: Hdf5File, group: Any, key: str, *, numbers: bool = True) -> None:
    """Checks an array, or all arrays of a group of them."""
    h5py = file.library("minari")
    linked = isinstance(group.get(key, getlink=True), h5py.HardLink)
    if linked and isinstance(group[key], h5py.Group):
        for part in group[key]:
            _check_array(where, file, group[key], part, numbers=numbers or part in _INFO)
        return
    array = file.numbers(group, key) if numbers else file.array(group, key)
    check_size(where, array.size * array.dtype.itemsize, file.path.stat().st_size)


def _episode(where: str, episode: Any, parts: Parts) -> Episode:
    length = len(episode.rewards)
    observations = parts.rows(where, episode.observations)
    infos = episode.infos or {}
    found = {key: np.asarray(infos[key]) for key in _INFO if key in infos}
    info = {
        key: array
        for key, array in found.items()
        if array.ndim == 2 and len(array) == len(observations)
    }
    if left_out := sorted(found.keys() - info.keys()):
        shapes = ", ".join(f"{key} of shape {found[key].shape}" for key in left_out)
        log_once(
            f"data: {where.partition(': ')[0]}: infos without a row for each of the episode's "
            f"{len(observations)} observations are not read: {shapes}"
        )
    return Episode(
        observations,
        np.asarray(episode.actions).reshape(length, -1),
        np.asarray(episode.rewards),
        _terminated(where, episode, length),
        info,
    )


def _terminated(where: str, episode: Any, length: int) -> bool:
    """Whether the episode's last step ended the task. Raises `UserError` for an earlier end.

    The library cuts an episode that is still running when the dataset is closed: such has no end.
    """
    terminated, truncated = (np.asarray(x) for x in (episode.terminations, episode.truncations))
    if not len(terminated) == len(truncated) == length:
        raise UserError(
            f"{where}: terminations and truncations are not as many as rewards, {length}"
        )
    early = np.flatnonzero((terminated | truncated)[:-1])
    if early.size:
        raise UserError(f"{where} ends in step {early[0]} and goes on: record it again")
    return bool(length and terminated[-1])
