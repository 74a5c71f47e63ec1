"""The layout that `qgf convert` writes: a .npy file for each field, and a manifest. No JAX."""

import io
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.data import formats
from qgf_jax.data.checksums import CheckedFile
from qgf_jax.data.chunks import room
from qgf_jax.data.formats import MANIFEST
from qgf_jax.errors import UserError, log
from qgf_jax.runs.files import fingerprint, sha256, write_atomically


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
        if seal != fingerprint(record):
            raise UserError(f"{path}: it was altered: convert again")
        for name, size in sizes.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != size:
                raise UserError(f"{file}: it is missing or not of {size} bytes: convert again")
        return cls(folder, record)

    def write(self) -> None:
        """Writes the manifest, after all files: a folder that has one is whole."""
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
            CheckedFile.of(self.folder / name, size, checksums)
            for name, (size, _) in self.record["files"].items()
        ]
        fields = {file.path.stem: _Field.open(file) for file in files}
        shapes = {name: f"{field.dtype}{list(field.shape)}" for name, field in fields.items()}
        if shapes != self.record["fields"]:
            raise UserError(f"{self.folder}: its files are not as {MANIFEST} says: convert again")
        return fields


class _Field(NamedTuple):
    """A .npy file whose rows are read without mapping it: mapped pages count as the process's."""

    file: CheckedFile
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    """Bytes before the first row."""

    @classmethod
    def open(cls, file: CheckedFile) -> "_Field":
        """Reads only the header."""
        raw = bytearray(min(file.size, _LONGEST_HEADER))
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
        row_bytes = array[:1].nbytes
        out = array.view(np.uint8).reshape(-1).data
        self.file.read_into(out, self.offset + start * row_bytes)
        return array


_LONGEST_HEADER = 4096  # bytes
