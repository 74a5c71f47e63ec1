"""npz files of steps, a row each: what replay buffers and other loaders save, where nothing is guessed.

    observations [T, O], actions [T, A], rewards [T]     before, of and after each step
    terminated [T], truncated [T]                        whether the step ended the task, or its episode
    next_observations [T, O]                             after each step; may be missing

Other columns of T rows, such as `qpos`, are kept. OGBench's own files are not of this kind.
"""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from qgf_jax.data.formats import header
from qgf_jax.data.readers import hdf5
from qgf_jax.data.readers.recording import ALL, Choice, Episode, Recording, check_size, reading
from qgf_jax.data.readers.steps import Steps
from qgf_jax.errors import UserError, log
from qgf_jax.runtime import paths

_ENDS = ("terminated", "truncated")
_READ = ("observations", "actions", "rewards", "next_observations", "qpos", "qvel")


def is_of_steps(path: Path) -> bool:
    """Whether a file is of this layout: an npz file with `terminated` and `truncated`."""
    try:
        with zipfile.ZipFile(path) as file:
            return {*_ENDS} <= {name.removesuffix(".npy") for name in file.namelist()}
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def open_recording(place: str, choice: Choice = ALL) -> Recording:
    """The episodes of a file. Raises `UserError` if it is not of this layout."""
    if choice != ALL:
        raise UserError(f"npz:{place}: there is nothing to choose of an npz file")
    path = paths.expand(place)
    steps = _steps(path)
    about = {
        "format": "npz",
        "version": "",
        "observations": [["observations", steps.columns["observations"].shape[1]]],
        "actions": "actions",
    }

    def episodes() -> Iterator[Episode]:
        return steps.episodes()

    return Recording(str(path), path.stem, about, hdf5.sha256(path), None, episodes)


def _steps(path: Path) -> Steps:
    errors = (zipfile.BadZipFile, zlib.error, NotImplementedError)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with reading(path, "NumPy", *errors), zipfile.ZipFile(path) as file:
        members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
        if len(members) < len(file.infolist()):
            raise UserError(f"{path}: two arrays have one name: write the file again")
        for key in ("observations", "actions", *_ENDS):
            if key not in members:
                raise UserError(
                    f"{path}: key {key!r} is missing (the file has {', '.join(members)})"
                )
        if unread := sorted(members.keys() - {*_READ, *_ENDS}):
            log(f"data: {path}: columns that are not read: {', '.join(unread)}")
        chosen = {key: info for key, info in members.items() if key in (*_READ, *_ENDS)}
        packed = sum(info.compress_size for info in chosen.values())
        check_size(path, sum(info.file_size for info in chosen.values()), packed)
        columns = {key: _array(path, file.open(info), key) for key, info in chosen.items()}
    ends = [columns.pop(key) for key in _ENDS]
    for key in ("observations", "actions"):
        if columns[key].ndim != 2 or not columns[key].shape[1]:
            raise UserError(f"{path}: {key} have shape {columns[key].shape}; it must be [T, width]")
    return Steps.of(str(path), columns, *ends)


def _array(path: Path, stream: IO[bytes], key: str) -> Any:
    with stream:
        shape, _, dtype = header(stream)
        if dtype.hasobject or dtype.kind not in "fiub":
            raise UserError(f"{path}: {key} has type {dtype}; it must be plain numbers")
        if not shape:
            raise UserError(f"{path}: {key} is one number; it must have a row for each step")
        stream.seek(0)
        array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):  # reading to the end is what checks the CRC-32
            raise UserError(f"{path}: {key} has bytes after its array: it was altered")
    return array
