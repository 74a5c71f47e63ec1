"""Reads OGBench's npz files into arrays that have been looked at. No JAX here."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qgf_jax.errors import UserError

SEARCH_PATH = ("data", "~/.ogbench/data")
"""Where a dataset is looked for when the config names no place."""


class Rows(NamedTuple):
    """A dataset as it is on disk: every row of every trajectory, R rows.

    Row t holds a state and the action taken in it; the action of a trajectory's last row is void.
    """

    observations: np.ndarray
    """[R, O] float32"""
    actions: np.ndarray
    """[R, A] float32"""
    ends: np.ndarray
    """[R] bool, true on the last row of each trajectory"""
    info: dict[str, np.ndarray]
    """`qpos`, `qvel`, `button_states`, where the file has them"""


def find(name: str, directory: str = "") -> Path:
    """The file `name`.npz in `directory`, or in `SEARCH_PATH`. Never downloads."""
    places = [Path(p).expanduser() for p in ([directory] if directory else SEARCH_PATH)]
    for place in places:
        if (path := place / f"{name}.npz").is_file():
            return path
    looked = " and ".join(str(p) for p in places)
    raise UserError(
        f"dataset {name}.npz is not in {looked}: put it there, or run "
        f"`qgf collect --env={name} --episodes=100 --out={places[0]}`"
    )


def read_rows(path: str | os.PathLike) -> Rows:
    """Reads and checks one OGBench file. Raises `UserError` naming file, key and cause."""
    path = Path(path)
    raw = _read_npz(path)
    for key in ("observations", "actions", "terminals"):
        if key not in raw:
            has = ", ".join(sorted(raw)) or "nothing"
            raise UserError(f"{path}: key {key!r} is missing (the file has {has})")
    n = len(raw["observations"])
    for key, array in raw.items():
        wanted = 1 if key == "terminals" else 2
        if array.ndim != wanted:
            raise UserError(f"{path}: {key} has shape {array.shape}; it must have {wanted} axes")
        if len(array) != n:
            raise UserError(f"{path}: {key} has {len(array)} rows, observations have {n}")
        if array.dtype.kind not in "fiub":
            raise UserError(f"{path}: {key} has type {array.dtype}; it must be numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argmax(~np.isfinite(array).reshape(n, -1).all(axis=1)))
            raise UserError(f"{path}: {key} is NaN or infinite in row {row}: collect it again")
    actions, ends = raw.pop("actions"), raw.pop("terminals")
    if not np.isin(ends, (0, 1)).all():
        row = int(np.argmax(~np.isin(ends, (0, 1))))
        raise UserError(f"{path}: terminals holds {ends[row]} in row {row}; it must be 0 or 1")
    if n == 0 or not ends[-1]:
        raise UserError(f"{path}: the last row does not end a trajectory: the file was cut off")
    if np.abs(actions).max() > 1.0 + 1e-4:
        row = int(np.argmax(np.abs(actions).max(axis=1)))
        raise UserError(f"{path}: actions leave [-1, 1] in row {row}: scale them")
    return Rows(
        observations=raw.pop("observations").astype(np.float32, copy=False),
        actions=actions.astype(np.float32, copy=False),
        ends=ends.astype(bool, copy=False),
        info=raw,
    )


_KEYS = ("observations", "actions", "terminals", "qpos", "qvel", "button_states")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in _KEYS if key in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError):
        cause = "it is cut off or altered, or not an npz file: fetch or collect it again"
    except (ValueError, AttributeError):  # object arrays, broken headers, a bare npy
        cause = "it is not an npz file of plain number arrays"
    raise UserError(f"{path}: {cause}")
