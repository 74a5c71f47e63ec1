"""A dataset on disk as one long sequence of rows that is read in pieces, whatever its layout. No JAX.

There are three layouts: an npz file; a folder of npz files, the slices, in the order of their names; and
a folder that `qgf convert` has made.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data import formats
from qgf_jax.data.converted import Manifest
from qgf_jax.data.formats import Peek, Rows
from qgf_jax.data.summary import Summary, describe_ends
from qgf_jax.errors import UserError
from qgf_jax.runs.files import fingerprint, sha256


class Source(NamedTuple):
    """A dataset on disk, opened and checked as far as that is quick."""

    path: Path
    slices: np.ndarray
    """[S + 1] Rows before each slice, and in all; a slice ends where a trajectory does."""
    ends: np.ndarray
    """[T] The last row of each trajectory."""
    widths: dict[str, int]
    read: Callable[[int, int], Rows]
    """(start, stop) -> rows [start, stop); do not change them."""
    seekable: bool
    """Whether `read` reads only these rows; else it reads a whole slice, in which they must lie."""
    fingerprint: dict[str, Any]
    """Name, SHA-256 (see `open_source`), rows, trajectories."""
    summary: Summary | None = None
    """If it is known already."""

    @property
    def transitions(self) -> int:
        """The number of rows that have a successor."""
        return int(self.slices[-1]) - len(self.ends)


def open_source(path: Path) -> Source:
    """Opens what `formats.find` finds. Raises `UserError` for bad data.

    The SHA-256 is the file's; for a folder of slices it is that of their names, sizes and CRC-32s, as
    hashing all slices would take minutes; for converted data it is that of their source.
    """
    if Manifest.is_in(path):
        return _open_converted(path)
    return _open_folder(path) if path.is_dir() else _open_file(path)


def validation_path(path: Path) -> Path | None:
    """The validation data that belong to `path`; to a folder of slices, those of the first slice."""
    if path.is_dir() and not Manifest.is_in(path):
        first = slice_paths(path)[0]
        validation = first.with_name(f"{first.stem}-val.npz")
        return validation if validation.is_file() else None
    if path.is_dir():
        validation = path.with_name(f"{path.name}-val")
        formats.check_whole(validation)
        return validation if Manifest.is_in(validation) else None
    validation = path.with_name(f"{path.stem}-val.npz")
    return validation if validation.is_file() else None


def slice_paths(folder: Path) -> list[Path]:
    """The npz files of a folder, without validation data. Raises `UserError` if none is left."""
    paths = [p for p in sorted(folder.glob("*.npz")) if not p.stem.endswith("-val")]
    if not paths:
        raise UserError(f"{folder}: it has no npz files but validation's: put the others there")
    return paths


def _open_file(path: Path) -> Source:
    rows = formats.read_rows(path)
    ends = np.flatnonzero(rows.ends)
    widths = {"observations": rows.observations.shape[1], "actions": rows.actions.shape[1]}
    slices = np.array([0, len(rows.ends)])
    record = {
        "file": path.name,
        "sha256": sha256(path),
        "rows": len(rows.ends),
        **describe_ends(ends),
    }
    read = functools.partial(_part, rows)
    return Source(path, slices, ends, widths, read, False, record)


def _part(rows: Rows, start: int, stop: int) -> Rows:
    info = {key: array[start:stop] for key, array in rows.info.items()}
    return Rows(*(array[start:stop] for array in rows[:3]), info)


def _open_folder(folder: Path) -> Source:
    paths = slice_paths(folder)
    peeks = [Peek.read(path) for path in paths]
    for path, peek in zip(paths, peeks, strict=True):
        if peek.widths != peeks[0].widths:
            raise UserError(
                f"{path}: its arrays are {peek.widths} wide, those of {paths[0].name} "
                f"{peeks[0].widths}: these are slices of two datasets"
            )
    slices = np.cumsum([0, *(len(peek.ends) for peek in peeks)])
    ends = np.flatnonzero(np.concatenate([peek.ends for peek in peeks]))
    identity = {path.name: peek.identity for path, peek in zip(paths, peeks, strict=True)}
    record = {
        "file": folder.name,
        "sha256": fingerprint(identity),
        "rows": int(slices[-1]),
        "slices": len(paths),
        **describe_ends(ends),
    }
    read = _Slices(paths, slices, [fingerprint({"": peek.identity}) for peek in peeks])
    return Source(folder, slices, ends, peeks[0].widths, read, False, record)


class _Slices:
    """Reads whole slices, and keeps the last one."""

    def __init__(self, paths: Sequence[Path], slices: np.ndarray, identities: Sequence[str]):
        self._paths, self._slices, self._identities = paths, slices, identities
        self._last: tuple[int, Rows] | None = None

    def __call__(self, start: int, stop: int) -> Rows:
        i = int(np.searchsorted(self._slices, start, "right")) - 1
        if self._last is None or self._last[0] != i:
            self._last = None  # frees it before the next one is read
            path = self._paths[i]
            rows = formats.read_rows(path)
            rows.info.pop("qvel", None)
            if fingerprint({"": Peek.read(path).identity}) != self._identities[i]:
                raise UserError(f"{path}: it was altered while in use: start again")
            self._last = (i, rows)
        first = int(self._slices[i])
        return _part(self._last[1], start - first, stop - first)


def _open_converted(folder: Path) -> Source:
    manifest = Manifest.read(folder)
    record, fields = manifest.record, manifest.open_fields()
    slices = np.cumsum([0, *record["slices"].values()])
    terminals = fields["terminals"].read(0, int(slices[-1]))
    ends = np.flatnonzero(terminals)
    if len(ends) != record["trajectories"] or not terminals[-1]:
        raise UserError(f"{fields['terminals'].file.path}: it was altered: convert again")
    columns = ("observations", "actions", "terminals")
    info = [name for name in fields if name not in columns]

    def read(start: int, stop: int) -> Rows:
        arrays = [fields[name].read(start, stop) for name in columns]
        return Rows(*arrays, {name: fields[name].read(start, stop) for name in info})

    widths = {name: field.shape[1] for name, field in fields.items() if len(field.shape) == 2}
    identity = {
        "file": folder.name,
        "sha256": record["source"] or fingerprint(record["files"]),
        "rows": int(slices[-1]),
        "slices": len(record["slices"]),
        **describe_ends(ends),
    }
    summary = Summary.read(record["summary"])
    return Source(folder, slices, ends, widths, read, True, identity, summary)
