"""The layout that `qgf convert` writes: a .npy file for each field, and a manifest. No JAX.

The manifest has a checksum of each piece of a file, which is compared whenever the piece is read. XXH3
(Collet, xxHash 0.8) detects accidental damage at the speed of a cache; it does not protect from people.
SHA-256 of a whole file would cost more than reading it.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Generator, Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import xxhash

from qgf_jax.data.formats import Rows, empty_array, header
from qgf_jax.data.summary import Summary
from qgf_jax.errors import SaveError, UserError, log
from qgf_jax.runs.files import fingerprint, sha256, write_atomically

MANIFEST = "manifest.json"
"""Written last: a folder that has one is whole."""

_INFO = ("qpos", "qvel", "button_states", "rewards", "masks")
"""Rewards and masks, or what they and goals are computed from; kept in the file's own types."""


class Manifest(NamedTuple):
    """What a folder of converted data holds, as its manifest says."""

    folder: Path
    record: dict[str, Any]
    """Fields, files, checksums, slices, trajectories, summary, and the SHA-256 of the source."""

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder holds converted data."""
        return (folder / MANIFEST).is_file()

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Raises `UserError` if the manifest or a file's size is wrong."""
        path = folder / MANIFEST
        try:
            record = json.loads(path.read_text())
            seal = record.pop("sha256")
            sizes = {name: size for name, (size, _) in record["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: it cannot be read: convert again") from None
        kinds = {
            "fields": dict,
            "slices": dict,
            "summary": dict,
            "source": str,
            "trajectories": int,
        }
        whole = all(isinstance(record.get(key), kind) for key, kind in kinds.items())
        if (
            not whole
            or not isinstance(record.get("about", {}), dict)
            or seal != fingerprint(record)
        ):
            raise UserError(f"{path}: it was altered: convert again")
        for name, size in sizes.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != size:
                raise UserError(f"{file}: it is missing or not of {size} bytes: convert again")
        return cls(folder, record)

    @classmethod
    def write(
        cls,
        folder: Path,
        slices: Iterable[tuple[str, Rows]],
        source: str = "",
        about: Mapping[str, Any] | None = None,
    ) -> "Manifest":
        """Writes the (name, rows) of slices one after another, and then the manifest.

        All is written beside `folder`, as .NAME.partial, by one process at a time, and renamed when it
        is complete; what a killed call has left of that is removed. `source` is the SHA-256 that stands
        for the slices' source, `about` what else is known of it.
        Raises `SaveError` for a full disk, `UserError` if the slices are not of one dataset or `folder`
        exists; then nothing is left.
        """
        cls.refuse_existing(folder)
        partial = folder.with_name(f".{folder.name}.partial")
        try:
            with _emptied(partial):
                record = _write_fields(partial, slices, folder.name) | {"source": source}
                record |= {"about": about} if about else {}
                cls(partial, record)._seal()
                cls.refuse_existing(folder)
                partial.rename(folder)
        except OSError as error:
            raise SaveError.at(folder, error) from error
        return cls(folder, record)

    @staticmethod
    def refuse_existing(folder: Path) -> None:
        """Raises `UserError` if there is anything where `write` would write."""
        if os.path.lexists(folder):
            raise UserError(f"{folder} is there already: remove it or choose another --out")

    def _seal(self) -> None:
        """Writes the manifest itself, after all files."""
        sealed = self.record | {"sha256": fingerprint(self.record)}
        write_atomically(self.folder / MANIFEST, json.dumps(sealed, indent=1) + "\n")

    def why_invalid(self) -> str:
        """Compares all files with the manifest, which reads all of them; "" if they match."""
        for name, (_, digest) in self.record["files"].items():
            if sha256(self.folder / name) != digest:
                return f"{self.folder / name}: it was altered: convert again"
        return ""

    def open_fields(self) -> dict[str, "_Field"]:
        """Opens every field, such as "observations". Raises `UserError` if a header is wrong."""
        checksums = self.record.get("checksums")
        if checksums is None:
            log(
                f"data: {self.folder} was converted before there were checksums, so damage is not "
                f"noticed as it is read: `qgf verify {self.folder}` reads all of it, or convert again"
            )
        files = [
            _CheckedFile.of(self.folder / name, size, checksums)
            for name, (size, _) in self.record["files"].items()
        ]
        fields = {file.path.stem: _Field.open(file) for file in files}
        shapes = {name: f"{field.dtype}{list(field.shape)}" for name, field in fields.items()}
        if shapes != self.record["fields"]:
            raise UserError(f"{self.folder}: its files are not as {MANIFEST} says: convert again")
        return fields


@contextlib.contextmanager
def _emptied(partial: Path) -> Generator[None]:
    """A folder, made or emptied, in which no other process writes. If the block fails, it is removed.

    Raises `UserError` if another process is at it. The lock is the operating system's, on the folder
    itself, and ends with the process; a file system that has none goes without.
    """
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        busy = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = True
        except OSError:
            pass
        if busy or not os.path.samestat(os.fstat(descriptor), partial.stat()):
            raise UserError(f"{partial}: another process is writing there: wait for it")
        try:
            for path in partial.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            yield
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)


def _write_fields(folder: Path, slices: Iterable[tuple[str, Rows]], title: str) -> dict[str, Any]:
    """Writes a file for each column of the slices' rows. Returns what the manifest says of all."""
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
        here = rows.summarize()
        summary = here if summary is None else summary.merge(here)
        log(f"{title}: {name}, {len(rows.ends)} rows")
    if summary is None:
        raise UserError(f"{folder}: there is nothing to write")
    return _finish(writers) | {"slices": counts, "summary": summary.record()}


def _finish(writers: Mapping[str, "_Npy"]) -> dict[str, Any]:
    """Completes the files. Returns what the manifest says of them."""
    fields = {key: writer.finish() for key, writer in writers.items()}
    files = [_CheckedFile.measure(writer.path) for writer in writers.values()]
    return {
        "fields": fields,
        "files": {file.path.name: [file.size, digest] for file, digest in files},
        "checksums": _CheckedFile.record(file for file, _ in files),
        "trajectories": writers["terminals"].ones,
    }


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


PIECE = 2**18
"""Bytes of a piece: it is hashed while it is still in a core's cache."""

_ALGORITHM = "xxh3_64"


class _CheckedFile(NamedTuple):
    """A file of known size whose pieces are compared with their checksums as they are read."""

    path: Path
    size: int
    piece: int
    sums: list[int] | None
    """One for each piece; `None` if the manifest is older than checksums: nothing is compared."""

    @classmethod
    def measure(cls, path: Path) -> tuple["_CheckedFile", str]:
        """Reads all of a file: its pieces' checksums, and the SHA-256 of the whole."""
        whole, sums = hashlib.sha256(), []
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                whole.update(piece)
                sums.append(xxhash.xxh3_64_intdigest(piece))
            size = file.tell()
        return cls(path, size, PIECE, sums), whole.hexdigest()

    @staticmethod
    def record(files: Iterable["_CheckedFile"]) -> dict[str, Any]:
        """What a manifest says of files that were measured; `of` reads it."""
        sums = {file.path.name: np.array(file.sums, ">u8").tobytes().hex() for file in files}
        return {"algorithm": _ALGORITHM, "piece": PIECE, "files": sums}

    @classmethod
    def of(cls, path: Path, size: int, checksums: Mapping[str, Any] | None) -> "_CheckedFile":
        """Takes the sums from what `record` gave. Raises `UserError` for an unknown kind of checksum."""
        if checksums is None:
            return cls(path, size, PIECE, None)
        if checksums["algorithm"] != _ALGORITHM:
            raise UserError(
                f"{path}: its checksums are {checksums['algorithm']}, which this version does not "
                "know: use a newer one, or convert again"
            )
        sums = np.frombuffer(bytes.fromhex(checksums["files"][path.name]), ">u8")
        return cls(path, size, checksums["piece"], sums.tolist())

    def read_into(self, out: memoryview, begin: int) -> None:
        """Fills `out` with the bytes from `begin` on. Raises `UserError` if a piece was altered.

        Reads every piece whole, even if `out` takes only a part: the checksum covers all of it.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                if self.sums is None:
                    file.seek(begin)
                    self._fill(file, out)
                else:
                    self._read_pieces(file, out, begin, self.sums)
        except OSError as error:
            raise UserError(f"{self.path} could not be read: {error.strerror}") from error

    def _read_pieces(self, file: FileIO, out: memoryview, begin: int, sums: list[int]) -> None:
        number, end = begin // self.piece, begin + len(out)
        first = number * self.piece
        file.seek(first)
        while first < end:
            last = min(first + self.piece, self.size)
            part = out[max(first - begin, 0) : last - begin]
            is_whole = len(part) == last - first
            piece = part if is_whole else np.empty(last - first, np.uint8).data
            self._fill(file, piece)
            if xxhash.xxh3_64_intdigest(piece) != sums[number]:
                raise UserError(f"{self.path}: bytes {first} to {last} were altered: convert again")
            if not is_whole:
                skipped = max(begin - first, 0)
                part[:] = piece[skipped : skipped + len(part)]
            number, first = number + 1, last

    def _fill(self, file: FileIO, left: memoryview) -> None:
        while (got := file.readinto(left)) < len(left):
            if not got:
                raise UserError(f"{self.path}: it ends too soon: convert again")
            left = left[got:]


class _Field(NamedTuple):
    """A .npy file whose rows are read without mapping it: mapped pages count as the process's."""

    file: _CheckedFile
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    """Bytes before the first row."""

    @classmethod
    def open(cls, file: _CheckedFile) -> "_Field":
        """Reads only the header."""
        raw = bytearray(min(file.size, _LONGEST_HEADER))
        file.read_into(memoryview(raw), 0)
        stream = io.BytesIO(raw)
        try:
            shape, fortran_order, dtype = header(stream)
        except Exception:  # NumPy parses it as Python and lets any of that parser's errors out
            raise UserError(f"{file.path}: it is not a .npy file: convert again") from None
        field = cls(file, shape, dtype, stream.tell())
        if fortran_order or field.offset + math.prod(shape) * dtype.itemsize != file.size:
            raise UserError(f"{file.path}: its header was altered: convert again")
        return field

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop)."""
        array = empty_array((stop - start, *self.shape[1:]), self.dtype)
        row_bytes = array[:1].nbytes
        out = array.view(np.uint8).reshape(-1).data
        self.file.read_into(out, self.offset + start * row_bytes)
        return array


_LONGEST_HEADER = 4096  # bytes
