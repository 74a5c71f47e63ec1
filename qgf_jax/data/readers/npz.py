"""npz files of steps, a row each: what replay buffers and other loaders save, where nothing is guessed.

    observations [T, O], actions [T, A], rewards [T]     before, of and after each step
    terminated [T], truncated [T]                        whether the step ended the task, or its episode
    next_observations [T, O]                             after each step; may be missing

`qpos` and `qvel` [T, …], the simulator's state before each step, are kept. Files of the raw layout, with
`terminals`, are read by `formats`.
"""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qgf_jax.data import formats
from qgf_jax.data.formats import check_size
from qgf_jax.data.readers.recording import ALL, OPENERS, Choice, Recording
from qgf_jax.data.readers.steps import ENDS, Steps
from qgf_jax.errors import UserError, log
from qgf_jax.runtime import paths

_COLUMNS = ("observations", "actions", "rewards", "next_observations", "qpos", "qvel")
_CONTRADICT = ("terminals", "masks", "mask", "discounts", "discount", "valids")
"""Columns that say once more what ends, which nobody would compare with `terminated`."""


@OPENERS.declare
def _open_recording(place: str, choice: Choice = ALL) -> Recording:
    """The episodes of a file. Raises `UserError` if it is not of this layout."""
    path = paths.expand(place)
    if choice != ALL:
        raise UserError(f"{path}: there is nothing to choose of an npz file")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    columns = _read(path)
    ends = [columns.pop(key) for key in ENDS]
    steps = Steps.of(str(path), columns, *ends)
    about = {
        "format": "npz",
        "version": "next_observations" if "next_observations" in columns else "",
        "observations": [["observations", columns["observations"].shape[1]]],
        "actions": "actions",
    }
    return Recording(str(path), path.stem, about, Recording.digest(path), None, steps.episodes)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The columns. Sizes are checked before memory is taken for them."""
    errors = (zipfile.BadZipFile, zlib.error, NotImplementedError)
    with Recording.reading(path, "NumPy", *errors), zipfile.ZipFile(path) as file:
        members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
        if len(members) < len(file.infolist()):
            raise UserError(f"{path}: two arrays have one name: write the file again")
        _check_keys(path, members)
        members = {key: info for key, info in members.items() if key in (*_COLUMNS, *ENDS)}
        sizes = [(info.file_size, info.compress_size) for info in members.values()]
        check_size(path, *map(sum, zip(*sizes, strict=True)))
        return {key: formats.read_array(path, file, key, info) for key, info in members.items()}


def _check_keys(path: Path, members: Mapping[str, zipfile.ZipInfo]) -> None:
    """Raises `UserError` if a column is missing, or if one would be ignored that says what ends."""
    for key in ("observations", "actions", *ENDS):
        if key not in members:
            has = ", ".join(sorted(members))[:60]
            raise UserError(f"{path}: key {key!r} is missing (the file has {has}): write it")
    for key in _CONTRADICT:
        if key in members:
            raise UserError(
                f"{path}: column {key!r} would not be read, as terminated and truncated say what "
                "ends: take it out of the file"
            )
    if unread := sorted(members.keys() - {*_COLUMNS, *ENDS}):
        log(f"data: {path}: columns that are not read: {', '.join(unread)}")
