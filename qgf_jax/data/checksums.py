"""Checksums of the pieces of a file: written once, compared whenever a piece is read. No JAX.

XXH3 (Collet, xxHash 0.8) finds accidental damage at the speed of a cache; it is no protection from
people. SHA-256 of a whole file would cost more than reading it.
"""

import hashlib
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from qgf_jax.errors import UserError

PIECE = 2**18
"""Bytes of a piece: it is hashed while it is still in a core's cache."""

_ALGORITHM = "xxh3_64"


def measure(path: Path) -> tuple[str, str]:
    """SHA-256 of a file, and the checksums of its pieces as one string of hexadecimal digits."""
    whole, sums = hashlib.sha256(), []
    with path.open("rb") as file:
        while part := file.read(PIECE):
            whole.update(part)
            sums.append(xxhash.xxh3_64_hexdigest(part))
    return whole.hexdigest(), "".join(sums)


def record(files: Mapping[str, str]) -> dict[str, Any]:
    """What a manifest says of the checksums that `measure` gave, by file name."""
    return {"algorithm": _ALGORITHM, "piece": PIECE, "files": dict(files)}


class CheckedFile(NamedTuple):
    """A file of known size whose pieces are compared with their checksums as they are read."""

    path: Path
    size: int
    piece: int
    sums: list[int] | None
    """One a piece; `None` if the manifest is older than checksums: nothing is compared"""

    @classmethod
    def of(cls, path: Path, size: int, checksums: Mapping[str, Any] | None) -> "CheckedFile":
        """By what `record` gave. Raises `UserError` for a kind of checksum that is not known."""
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

        A piece that `out` takes only a part of is read whole, as its checksum is of all of it.
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
