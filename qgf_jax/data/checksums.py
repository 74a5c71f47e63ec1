"""Checksums of the pieces of a file: written once, compared whenever a piece is read. No JAX.

XXH3 (Collet, xxHash 0.8) detects accidental damage at the speed of a cache; it does not protect from
people. SHA-256 of a whole file would cost more than reading it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from qgf_jax.errors import UserError

PIECE = 2**18
"""Bytes of a piece: it is hashed while it is still in a core's cache."""

_ALGORITHM = "xxh3_64"


class CheckedFile(NamedTuple):
    """A file of known size whose pieces are compared with their checksums as they are read."""

    path: Path
    size: int
    piece: int
    sums: list[int] | None
    """One for each piece; `None` if the manifest is older than checksums: nothing is compared."""

    @classmethod
    def measure(cls, path: Path) -> tuple["CheckedFile", str]:
        """Reads all of a file: its pieces' checksums, and the SHA-256 of the whole."""
        whole, sums = hashlib.sha256(), []
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                whole.update(piece)
                sums.append(xxhash.xxh3_64_intdigest(piece))
            size = file.tell()
        return cls(path, size, PIECE, sums), whole.hexdigest()

    @staticmethod
    def record(files: Iterable["CheckedFile"]) -> dict[str, Any]:
        """What a manifest says of files that were measured; `of` reads it."""
        sums = {file.path.name: np.array(file.sums, ">u8").tobytes().hex() for file in files}
        return {"algorithm": _ALGORITHM, "piece": PIECE, "files": sums}

    @classmethod
    def of(cls, path: Path, size: int, checksums: Mapping[str, Any] | None) -> "CheckedFile":
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
