"""Compressed npz files into plain .npy files that are read at the disk's speed. No JAX."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qgf_jax.data import checksums, formats, shards
from qgf_jax.data.formats import MANIFEST, Rows
from qgf_jax.data.summary import Summary
from qgf_jax.errors import SaveError, UserError, log
from qgf_jax.runs import failpoints
from qgf_jax.runs.checkpoint import fingerprint, write_atomically

_INFO = ("qpos", "button_states", "rewards", "masks")
"""Rewards and masks, or what they and goals are computed from; kept in the file's own types."""


def convert(source: str | os.PathLike, out: str | os.PathLike) -> list[Path]:
    """Writes OUT/NAME, and OUT/NAME-val if there are validation data, from NAME.npz or a folder NAME.

    Slices are read one by one, with all checks of `formats.read_rows`. Raises `UserError` for a source
    that will not do, or if there is such a folder already, whatever it holds; but validation data from
    the same source, which a killed call has left, stay and count.
    """
    source, out = Path(source), Path(out)
    if source.is_dir():
        paths = shards.slice_paths(source)
        twins = sorted(source.glob("*-val.npz"))
        name, identity = source.name, shards.open_source(source).fingerprint["sha256"]
    else:
        if not source.is_file():
            raise UserError(f"{source}: no such file or folder")
        paths, name, identity = [source], source.stem, _sha256(source)
        twins = [twin] if (twin := shards.validation_path(source)) else []
    targets = [(out / name, paths, identity)]
    if twins:
        sums = {p.name: formats.peek(p).identity for p in twins}
        targets.append((out / f"{name}-val", twins, fingerprint(sums)))
    _refuse(targets[0][0])
    kept = [target for target, _, digest in targets[1:] if _holds(target, digest)]
    for target, *_ in targets[1:]:
        if target not in kept:
            _refuse(target)
    for target, files, digest in reversed(targets):  # validation data first: the others count
        if target not in kept:
            write(target, ((p.stem, formats.read_rows(p)) for p in files), source=digest)
            failpoints.failpoint("converted")
    return [target for target, *_ in targets]


def _holds(folder: Path, digest: str) -> bool:
    """Whether `folder` holds, whole, what a source of that SHA-256 is converted to."""
    try:
        return shards.read_manifest(folder)["source"] == digest and not shards.fault(folder)
    except UserError:
        return False


def _refuse(folder: Path) -> None:
    if os.path.lexists(folder):
        raise UserError(f"{folder} is there already: remove it or choose another --out")


def write(folder: Path, slices: Iterable[tuple[str, Rows]], source: str = "") -> None:
    """Writes (name, rows) of slices one after another, and then the manifest.

    All is made beside `folder`, as .NAME.partial, and gets its name when it is complete; what a killed
    call has left of that is removed. `source` is the SHA-256 that stands for what they come from.
    Raises `SaveError` for a full disk, `UserError` if slices are not of one dataset or `folder` is
    there; then nothing is left.
    """
    _refuse(folder)
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
        arrays = {
            "observations": rows.observations,
            "actions": rows.actions,
            "terminals": rows.ends,
            **{key: rows.info[key] for key in _INFO if key in rows.info},
        }
        if not writers:
            writers = {key: _Npy(folder / f"{key}.npy", array) for key, array in arrays.items()}
        _check_like(folder, name, arrays, writers)
        for key, array in arrays.items():
            writers[key].add(array)
        counts[name] = len(rows.ends)
        found = Summary.of(rows)
        summary = found if summary is None else summary.merge(found)
        log(f"{title}: {name}, {len(rows.ends)} rows")
    if summary is None:
        raise UserError(f"{folder}: there is nothing to write")
    fields = {key: writer.finish() for key, writer in writers.items()}
    paths = [writer.path for writer in writers.values()]
    measured = {path.name: checksums.measure(path) for path in paths}
    record = {
        "fields": fields,
        "files": {path.name: [path.stat().st_size, measured[path.name][0]] for path in paths},
        "checksums": checksums.record({name: sums for name, (_, sums) in measured.items()}),
        "slices": counts,
        "trajectories": writers["terminals"].ones,
        "summary": summary.record(),
        "source": source,
    }
    record["sha256"] = fingerprint(record)
    write_atomically(folder / MANIFEST, json.dumps(record, indent=1) + "\n")


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
    """A .npy file that grows, its header written last: how many rows come is not known before."""

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
        """Writes the header and forces all to disk: type and shape, as the manifest has them."""
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
