"""robomimic's HDF5 files of low-dimensional observations (Mandlekar et al., 2021), read with h5py.

`data/demo_N` holds an episode: `actions`, `rewards`, `dones` and `obs/KEY` [T, …], and `next_obs/KEY`
unless it was left out to save space. `dones` says where the task ended: an episode ends with its first,
and what follows is left out; one at the very end without a reward is not taken for that. `mask/NAME`
lists the episodes of a part, such as `train` and `valid`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data.readers.hdf5 import Hdf5File
from qgf_jax.data.readers.recording import ALL, OPENERS, Choice, Episode, Recording
from qgf_jax.errors import UserError, log
from qgf_jax.runtime import paths

_SPLITS = ("train", "valid")


@OPENERS.declare
def _open_recording(place: str, choice: Choice = ALL) -> Recording:
    """The episodes of a file or of one of its masks; `UserError` if it is not in this layout."""
    path, actions = paths.expand(place), choice.actions or "actions"
    with Hdf5File.open(path) as file:
        data = _data(file)
        names = _names(file, choice.split)
        first = data[names[0]]
        keys = _keys(file, first, choice.observations)
        widths = tuple(_width(file, first["obs"], key) for key in keys)
        environment = _environment(path, data)
        splits = _splits(file) if not choice.split else ()
        file.numbers(first, actions, axes=2)
    about = {
        "format": "robomimic",
        "version": str(environment.pop("env_version", "")),
        "observations": [[key, width] for key, width in zip(keys, widths, strict=True)],
        "actions": actions,
        "split": choice.split,
        "environment": environment,
    }
    ends = choice.ends or ""
    return Recording(
        f"robomimic:{place}",
        path.stem,
        about,
        Recording.digest(path),
        None,
        lambda: _episodes(path, names, tuple(zip(keys, widths, strict=True)), actions, ends),
        splits,
        (path,),
    )


def _splits(file: Hdf5File) -> tuple[str, ...]:
    """The masks of training and validation data, or none.

    Raises `UserError` if they share an episode, as robomimic's own training does.
    """
    if not {*file.root.get("mask", {})}.issuperset(_SPLITS):
        return ()
    train, valid = (_names(file, split) for split in _SPLITS)
    if both := sorted({*train} & {*valid}):
        raise UserError(
            f"{file.path}: {both[0]} is in both masks {' and '.join(_SPLITS)}: choose one by --split"
        )
    return _SPLITS


def _width(file: Hdf5File, group: Any, key: str) -> int:
    """The numbers in a row of an observation. Raises `UserError` for images."""
    found = file.numbers(group, key)
    if found.ndim > 2 and found.dtype.kind in "iu":
        raise UserError(
            f"{file.path}: {group.name}/{key} has shape {found.shape}: images are not supported"
        )
    return int(np.prod(found.shape[1:]))


def _data(file: Hdf5File) -> Any:
    path, root = file.path, file.root
    if "data" not in root or "env_args" not in root["data"].attrs:
        raise UserError(
            f"{path}: /data with env_args is missing: it is not robomimic's layout (for D4RL's write "
            f"d4rl:{path})"
        )
    return root["data"]


def _environment(path: Path, data: Any) -> dict[str, Any]:
    """What the file says of its environment, and of how actions are meant."""
    try:
        found = json.loads(data.attrs["env_args"])
        controllers = (found.get("env_kwargs") or {}).get("controller_configs") or {}
        return {
            "id": str(found["env_name"]),
            "env_version": found.get("env_version", ""),
            "control_delta": controllers.get("control_delta"),
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: env_args cannot be read ({error!r}): it was altered") from None


def _names(file: Hdf5File, split: str) -> list[str]:
    """The episodes of a mask, or all, by number. Raises `UserError` for a mask that there is not."""
    path, every = file.path, file.groups(file.root["data"])
    if not every:
        raise UserError(f"{path}: /data has no episodes")
    if not split:
        return every
    masks = file.root.get("mask", {})
    if split not in masks:
        raise UserError.unknown(f"mask of {path}", split, masks)
    listed = {x.decode() if isinstance(x, bytes) else str(x) for x in masks[split][()]}
    if unknown := sorted(listed - {*every}):
        raise UserError(f"{path}: mask {split} lists {unknown[0]}, which is no episode of the file")
    if not listed:
        raise UserError(f"{path}: mask {split} lists no episode")
    return [name for name in every if name in listed]


def _keys(file: Hdf5File, episode: Any, chosen: tuple[str, ...]) -> list[str]:
    """The keys of rows of numbers, sorted, or the chosen ones. Images are named and left out."""
    path = file.path
    if "obs" not in episode:
        raise UserError(
            f"{path}: {episode.name}/obs is missing: extract observations with robomimic"
        )
    every = sorted(episode["obs"])
    if chosen:
        for key in chosen:
            if key not in every:
                raise UserError.unknown(f"observation of {path}", key, every)
        return [*chosen]
    found = [key for key in every if file.numbers(episode["obs"], key).ndim <= 2]
    if images := sorted({*every} - {*found}):
        log(f"data: {path}: images are not read: {', '.join(images)}")
    if not found:
        raise UserError(f"{path}: all of its observations are images, which are not supported")
    return found


def _episodes(
    path: Path, names: list[str], parts: tuple[tuple[str, int], ...], actions: str, ends: str
) -> Iterator[Episode]:
    left_out = 0
    with Hdf5File.open(path) as file:
        for name in names:
            group = file.root["data"][name]
            dones = _dones(file, group)
            length = len(dones)
            if (first := np.flatnonzero(dones)).size:
                left_out += length - (length := int(first[0]) + 1)
            said = bool(first.size) and length == len(dones)
            terminated = ends != "truncated" if said else bool(first.size)
            demo = _Demo(file, group, parts, actions)
            episode = demo.episode(length, len(dones), terminated=terminated)
            if said and not ends:
                _check_meaning(path, name, episode)
            yield episode
    if left_out:
        log(f"data: {path}: {left_out} transitions after an episode's first `dones` are left out")


def _check_meaning(path: Path, name: str, episode: Episode) -> None:
    """Raises `UserError` if the last row's `dones` may be the end of the recording alone.

    robomimic's extraction can mark the last row of every trajectory (--done_mode 1 and 2), of those that
    failed too. A reward there and nowhere before is a success.
    """
    rewards = episode.rewards
    if rewards is not None and (rewards[-1] == 0 or rewards[:-1].any()):
        raise UserError(
            f"{path}: {name} has `dones` on its last row alone, and its rewards do not say whether that "
            "is a success or the end of the recording: give --ends=terminated or --ends=truncated"
        )


def _dones(file: Hdf5File, group: Any) -> np.ndarray:
    dones = file.read(file.numbers(group, "dones", axes=1))
    if not np.isin(dones, (0, 1)).all():
        raise UserError(f"{file.path}: {group.name}/dones must be 0 or 1")
    if not len(dones):
        raise UserError(f"{file.path}: {group.name} has no steps")
    return dones


class _Demo(NamedTuple):
    """A group of the file."""

    file: Hdf5File
    group: Any
    parts: tuple[tuple[str, int], ...]
    """Key and width of each part of the observations."""
    actions: str

    def episode(self, length: int, rows: int, *, terminated: bool) -> Episode:
        """The first `length` transitions of `rows`."""
        taken, rewards = (
            self._read(self.group, k, 0, length, rows) for k in (self.actions, "rewards")
        )
        observed = self._observed("obs", 0, min(length + 1, rows), rows)
        if len(observed) == length + 1:  # the episode goes on in the file
            return Episode(observed, taken, rewards, terminated)
        if "next_obs" in self.group:
            final = self._observed("next_obs", rows - 1, rows, rows)
            return Episode(np.concatenate([observed, final]), taken, rewards, terminated)
        return Episode.without_final(observed, taken, rewards, terminated=terminated)

    def _observed(self, name: str, start: int, stop: int, rows: int) -> np.ndarray:
        """[stop - start, O] of the parts, one beside another."""
        found = []
        for key, width in self.parts:
            part = self._read(self.group[name], key, start, stop, rows)
            found.append(part.reshape(len(part), -1))
            if found[-1].shape[1] != width:
                raise UserError(
                    f"{self.file.path}: {self.group.name}/{name}/{key} is {found[-1].shape[1]} wide, in "
                    f"the first episode {width}"
                )
        return np.concatenate(found, axis=1)

    def _read(self, group: Any, key: str, start: int, stop: int, rows: int) -> np.ndarray:
        found = self.file.numbers(group, key)
        if len(found) != rows:
            raise UserError(
                f"{self.file.path}: {self.group.name}: {key} has {len(found)} rows, dones have {rows}"
            )
        return self.file.read(found, start, stop)
