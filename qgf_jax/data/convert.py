"""Unpacks npz files into plain .npy files that are read at the disk's speed. No JAX."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from qgf_jax.data import formats, shards
from qgf_jax.data.checksums import CheckedFile
from qgf_jax.data.converted import Manifest
from qgf_jax.data.formats import Peek, Rows
from qgf_jax.data.summary import Summary
from qgf_jax.errors import SaveError, UserError, log
from qgf_jax.runs.failpoints import failpoint
from qgf_jax.runs.files import fingerprint, sha256

_INFO = ("qpos", "button_states", "rewards", "masks")
"""Rewards and masks, or what they and goals are computed from; kept in the file's own types."""


class _Target(NamedTuple):
    """A folder to write, and what from."""

    folder: Path
    files: list[Path]
    source: str
    """The SHA-256 that stands for `files`."""

    def is_done(self) -> bool:
        """Whether the folder holds, whole, what the files are converted to. Reads all of it."""
        try:
            manifest = Manifest.read(self.folder)
        except UserError:
            return False
        return manifest.record["source"] == self.source and not manifest.why_invalid()


def convert(source: str | os.PathLike, out: str | os.PathLike) -> list[Path]:
    """Writes OUT/NAME, and OUT/NAME-val for validation data, from NAME.npz or a folder NAME.

    Reads slices one by one, with all checks of `formats.read_rows`. Raises `UserError` for bad data, or
    if such a folder exists, whatever it holds. Validation data from the same source, which a killed call
    has left, are kept. Returns the folders.
    """
    data, *validation = targets = _targets(Path(source), Path(out))
    _refuse_existing(data.folder)
    missing = [target for target in validation if not target.is_done()]
    for target in missing:
        _refuse_existing(target.folder)
    for target in (*missing, data):  # validation data first: a folder NAME says that all is done
        write(
            target.folder,
            ((path.stem, formats.read_rows(path)) for path in target.files),
            source=target.source,
        )
        failpoint("converted")
    return [target.folder for target in targets]


def _targets(source: Path, out: Path) -> list[_Target]:
    """The data, and the validation data if there are any."""
    if source.is_dir():
        files, validation = shards.slice_paths(source), sorted(source.glob("*-val.npz"))
        name, identity = source.name, shards.open_source(source).fingerprint["sha256"]
    else:
        if not source.is_file():
            raise UserError(f"{source}: no such file or folder")
        files, name, identity = [source], source.stem, sha256(source)
        path = shards.validation_path(source)
        validation = [path] if path else []
    targets = [_Target(out / name, files, identity)]
    if validation:
        sums = {path.name: Peek.read(path).identity for path in validation}
        targets.append(_Target(out / f"{name}-val", validation, fingerprint(sums)))
    return targets


def _refuse_existing(folder: Path) -> None:
    if os.path.lexists(folder):
        raise UserError(f"{folder} is there already: remove it or choose another --out")


def write(folder: Path, slices: Iterable[tuple[str, Rows]], source: str = "") -> None:
    """Writes the (name, rows) of slices one after another, and then the manifest.

    All is written beside `folder`, as .NAME.partial, and renamed when it is complete; what a killed call
    has left of that is removed. `source` is the SHA-256 that stands for the slices' source. Raises
    `SaveError` for a full disk, `UserError` if the slices are not of one dataset or `folder` exists;
    then nothing is left.
    """
    _refuse_existing(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write(partial, slices, source, folder.name)
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise SaveError.at(folder, error) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(folder: Path, slices: Iterable[tuple[str, Rows]], source: str, title: str) -> None:
    writers: dict[str, _Npy] = {}
    counts: dict[str, int] = {}
    summary: Summary | None = None
    for name, rows in slices:
        arrays = _columns(rows)
        if not writers:
            writers = {key: _Npy(folder / f"{key}.npy", array) for key, array in arrays.items()}
        _check_like(folder, name, arrays, writers)
        for key, array in arrays.items():
            writers[key].add(array)
        counts[name] = len(rows.ends)
        summary = Summary.of(rows) if summary is None else summary.merge(Summary.of(rows))
        log(f"{title}: {name}, {len(rows.ends)} rows")
    if summary is None:
        raise UserError(f"{folder}: there is nothing to write")
    _finish(folder, writers, {"slices": counts, "summary": summary.record(), "source": source})


def _finish(folder: Path, writers: Mapping[str, "_Npy"], about: Mapping[str, Any]) -> None:
    """Completes the files, and writes the manifest; `about` is what it says of the data."""
    fields = {key: writer.finish() for key, writer in writers.items()}
    files = [CheckedFile.measure(writer.path) for writer in writers.values()]
    record = {
        "fields": fields,
        "files": {file.path.name: [file.size, digest] for file, digest in files},
        "checksums": CheckedFile.record(file for file, _ in files),
        "trajectories": writers["terminals"].ones,
        **about,
    }
    Manifest(folder, record).write()


def _columns(rows: Rows) -> dict[str, np.ndarray]:
    """The arrays that are written, by the names of their files."""
    return {
        "observations": rows.observations,
        "actions": rows.actions,
        "terminals": rows.ends,
        **{key: rows.info[key] for key in _INFO if key in rows.info},
    }


def _check_like(
    folder: Path, name: str, arrays: Mapping[str, np.ndarray], writers: Mapping[str, "_Npy"]
) -> None:
    for key in sorted(arrays.keys() | writers.keys()):
        here = f"{arrays[key].dtype}{list(arrays[key].shape[1:])}" if key in arrays else "missing"
        there = writers[key].kind if key in writers else "missing"
        if here != there:
            raise UserError(
                f"{folder.name}: {key} is {here} a row in {name} and {there} in those before it: "
                "these are slices of two datasets"
            )


class _Npy:
    """A .npy file that grows. Its header comes last, as the number of rows is not known before."""

    _HEADER = 128

    def __init__(self, path: Path, like: np.ndarray):
        self.path, self.rows, self.ones = path, 0, 0
        self.kind = f"{like.dtype}{list(like.shape[1:])}"
        self._row, self._dtype = like.shape[1:], like.dtype
        self._file: BinaryIO = path.open("w+b")
        self._file.write(b"\0" * self._HEADER)

    def add(self, array: np.ndarray) -> None:
        """More rows."""
        self._file.write(np.ascontiguousarray(array).view(np.uint8).data)
        self.rows += len(array)
        if array.dtype == bool:
            self.ones += int(array.sum())

    def finish(self) -> str:
        """Writes the header and forces all to disk. Returns type and shape, as the manifest has them."""
        shape = (self.rows, *self._row)
        text = repr(
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": shape,
            }
        )
        room = self._HEADER - 10
        self._file.seek(0)
        self._file.write(np.lib.format.magic(1, 0) + room.to_bytes(2, "little"))
        self._file.write(text.ljust(room - 1).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return f"{self._dtype}{list(shape)}"
