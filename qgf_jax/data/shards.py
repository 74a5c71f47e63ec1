"""A dataset on disk as one long run of rows that is read in pieces, whatever its layout. No JAX.

There are three layouts: an npz file; a folder of npz files, the slices, in the order of their names;
and a folder that `qgf convert` has made, one .npy file per field and a manifest.
"""

import functools
import hashlib
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data import formats
from qgf_jax.data.checksums import CheckedFile
from qgf_jax.data.chunks import room
from qgf_jax.data.formats import MANIFEST, Rows
from qgf_jax.data.summary import Summary, describe_ends
from qgf_jax.errors import UserError, log
from qgf_jax.runs.checkpoint import fingerprint


class Source(NamedTuple):
    """A dataset on disk, opened and checked as far as that is quick."""

    path: Path
    slices: np.ndarray
    """[S + 1] rows before each slice, and in all; a slice ends where a trajectory does"""
    ends: np.ndarray
    """[T] the last row of each trajectory"""
    widths: dict[str, int]
    read: Callable[[int, int], Rows]
    """(start, stop) -> these rows, fresh or not to be changed"""
    seekable: bool
    """Reading takes no more than what it gives; else it reads whole slices, and none across two."""
    fingerprint: dict[str, Any]
    """Name, SHA-256 (see `open_source`), rows, trajectories."""
    summary: Summary | None = None
    """Where it is known already."""

    @property
    def transitions(self) -> int:
        """How many rows have a successor."""
        return int(self.slices[-1]) - len(self.ends)


def open_source(path: Path) -> Source:
    """Opens what `formats.find` finds.

    The SHA-256 is a file's own; for a folder of slices it is that of their names, sizes and CRC-32s, as
    hashing them all would take minutes. Converted data have that of what they were converted from.
    """
    if (path / MANIFEST).is_file():
        return _open_converted(path)
    return _open_folder(path) if path.is_dir() else _open_file(path)


def validation_path(path: Path) -> Path | None:
    """The validation data of `path`; of a folder of slices those of the first."""
    if path.is_dir() and not (path / MANIFEST).is_file():
        first = slice_paths(path)[0]
        found = first.with_name(f"{first.stem}-val.npz")
        return found if found.is_file() else None
    places = (path.with_name(f"{path.stem}-val.npz"), path.with_name(f"{path.name}-val"))
    wanted = places[path.is_dir()]
    formats.check_whole(wanted)
    there = (wanted / MANIFEST).is_file() if path.is_dir() else wanted.is_file()
    return wanted if there else None


def slice_paths(folder: Path) -> list[Path]:
    """The npz files of a folder but for validation's."""
    found = [p for p in sorted(folder.glob("*.npz")) if not p.stem.endswith("-val")]
    if not found:
        raise UserError(f"{folder}: it has no npz files but validation's: put the others there")
    return found


def _open_file(path: Path) -> Source:
    rows = formats.read_rows(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    ends = np.flatnonzero(rows.ends)
    widths = {"observations": rows.observations.shape[1], "actions": rows.actions.shape[1]}
    slices = np.array([0, len(rows.ends)])
    record = {"file": path.name, "sha256": digest, "rows": len(rows.ends), **describe_ends(ends)}
    read = functools.partial(_part, rows)
    return Source(path, slices, ends, widths, read, False, record)


def _part(rows: Rows, start: int, stop: int) -> Rows:
    info = {key: array[start:stop] for key, array in rows.info.items()}
    return Rows(*(array[start:stop] for array in rows[:3]), info)


def _open_folder(folder: Path) -> Source:
    paths = slice_paths(folder)
    peeks = [formats.peek(path) for path in paths]
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
    """Reads slices whole, and keeps the last one."""

    def __init__(self, paths: Sequence[Path], slices: np.ndarray, identities: Sequence[str]):
        self._paths, self._slices, self._identities = paths, slices, identities
        self._last: tuple[int, Rows] | None = None

    def __call__(self, start: int, stop: int) -> Rows:
        i = int(np.searchsorted(self._slices, start, "right")) - 1
        if self._last is None or self._last[0] != i:
            self._last = None  # before there is another
            path = self._paths[i]
            rows = formats.read_rows(path)
            rows.info.pop("qvel", None)
            if fingerprint({"": formats.peek(path).identity}) != self._identities[i]:
                raise UserError(f"{path}: it was altered while in use: start again")
            self._last = (i, rows)
        first = int(self._slices[i])
        return _part(self._last[1], start - first, stop - first)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of converted data. Raises `UserError` if it or a file's size is not right."""
    path = folder / MANIFEST
    try:
        record = json.loads(path.read_text())
        seal = record.pop("sha256")
        sizes = {name: size for name, (size, _) in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: it cannot be read: convert again") from None
    if seal != fingerprint(record):
        raise UserError(f"{path}: it was altered: convert again")
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(f"{file}: it is missing or not of {size} bytes: convert again")
    return record


def fault(folder: Path) -> str:
    """What differs between converted data and their manifest, which reads all; empty if nothing."""
    for name, (_, wanted) in read_manifest(folder)["files"].items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                return f"{folder / name}: it was altered: convert again"
    return ""


def _open_converted(folder: Path) -> Source:
    record = read_manifest(folder)
    checksums = record.get("checksums")
    if checksums is None:
        log(
            f"data: {folder} was converted before there were checksums, so damage is not noticed as it "
            f"is read: `qgf verify {folder}` reads all of it, or convert again"
        )
    files = [
        CheckedFile.of(folder / name, size, checksums)
        for name, (size, _) in record["files"].items()
    ]
    fields = {file.path.stem: Field.open(file) for file in files}
    found = {name: f"{field.dtype}{list(field.shape)}" for name, field in fields.items()}
    if found != record["fields"]:
        raise UserError(f"{folder}: its files are not as {MANIFEST} says: convert again")
    slices = np.cumsum([0, *record["slices"].values()])
    terminals = fields["terminals"].read(0, int(slices[-1]))
    ends = np.flatnonzero(terminals)
    if len(ends) != record["trajectories"] or not terminals[-1]:
        raise UserError(f"{fields['terminals'].file.path}: it was altered: convert again")
    info = [name for name in fields if name not in ("observations", "actions", "terminals")]

    def read(start: int, stop: int) -> Rows:
        arrays = [fields[n].read(start, stop) for n in ("observations", "actions", "terminals")]
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


class Field(NamedTuple):
    """A .npy file, rows of which are read without mapping it: mapped pages count as the process's."""

    file: CheckedFile
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    """bytes before the first row"""

    @classmethod
    def open(cls, file: CheckedFile) -> "Field":
        """Reads the header alone."""
        raw = bytearray(min(file.size, _HEADERS))
        file.read_into(memoryview(raw), 0)
        stream = io.BytesIO(raw)
        try:
            shape, fortran_order, dtype = formats.header(stream)
        except Exception:  # NumPy parses it as Python and lets any of that parser's errors out
            raise UserError(f"{file.path}: it is not a .npy file: convert again") from None
        field = cls(file, shape, dtype, stream.tell())
        if fortran_order or field.offset + math.prod(shape) * dtype.itemsize != file.size:
            raise UserError(f"{file.path}: its header was altered: convert again")
        return field

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop)."""
        array = room((stop - start, *self.shape[1:]), self.dtype)
        row = array[:1].nbytes
        self.file.read_into(array.view(np.uint8).reshape(-1).data, self.offset + start * row)
        return array


_HEADERS = 4096
"""Bytes that no header is longer than."""
