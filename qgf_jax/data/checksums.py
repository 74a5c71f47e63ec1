"""Checksums of the pieces of a file: written once, compared whenever a piece is read. No JAX.

XXH3 (Collet, xxHash 0.8) finds accidental damage at the speed of a cache; it is no protection from
people. SHA-256 of a whole file would cost more than reading it.
"""

import hashlib
from collections.abc import Iterator, Mapping
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
                    return
                for first, last in self._pieces(begin, begin + len(out), file):
                    part = out[max(first - begin, 0) : last - begin]
                    whole = (
                        part if len(part) == last - first else memoryview(bytearray(last - first))
                    )
                    self._fill(file, whole)
                    if xxhash.xxh3_64_intdigest(whole) != self.sums[first // self.piece]:
                        raise UserError(
                            f"{self.path}: bytes {first} to {last} were altered: convert again"
                        )
                    if whole is not part:
                        skipped = max(begin - first, 0)
                        part[:] = whole[skipped : skipped + len(part)]
        except OSError as error:
            raise UserError(f"{self.path} could not be read: {error.strerror}") from error

    def _pieces(self, begin: int, end: int, file: FileIO) -> Iterator[tuple[int, int]]:
        """The bytes [first, last) of each piece that [begin, end) touches; `file` stands there."""
        start = begin // self.piece * self.piece
        file.seek(start)
        for first in range(start, end, self.piece):
            yield first, min(first + self.piece, self.size)

    def _fill(self, file: FileIO, left: memoryview) -> None:
        while left:
            if not (got := file.readinto(left)):
                raise UserError(f"{self.path}: it ends too soon: convert again")
            left = left[got:]
