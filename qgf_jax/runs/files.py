"""Files that a kill or a full disk leaves whole: atomic writes, JSON lines, checksums. No JAX."""

import contextlib
import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from qgf_jax.errors import ELSEWHERE, SaveError, UserError, log
from qgf_jax.runs.failpoints import failpoint


def write_atomically(path: Path, content: str | bytes, elsewhere: str = ELSEWHERE) -> None:
    """Makes `path` hold all of `content`; after a kill it may hold what it held before.

    Raises `SaveError`; for a place that nobody may write to, the advice is `elsewhere`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        failpoint(f"rename_{path.name.lstrip('0123456789').lstrip('.')}")
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise SaveError.at(path, error, elsewhere) from error
    finally:
        with contextlib.suppress(OSError):  # what hindered the writing may hinder this
            temporary.unlink()


def sync(path: Path) -> None:
    """Forces a file's content, or the names in a folder, to disk. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(record: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def numbers(values: Any) -> Any:
    """A number, or an array as nested lists, as JSON has it: to six digits, without NaN and infinity."""
    array = np.asarray(values)
    if array.ndim:
        return [numbers(x) for x in array]
    return float(f"{array:.6g}") if np.isfinite(array) else None


class _LeftOut(NamedTuple):
    """A line of a file that does not count."""

    line: int
    """Its number, from 1."""
    why: str


class Lines(NamedTuple):
    """What a file of JSON lines holds."""

    path: Path
    records: list[dict[str, Any]]
    left_out: list[_LeftOut]

    @classmethod
    def read(
        cls, path: Path, why_invalid: Callable[[Mapping[str, Any]], str] = lambda record: ""
    ) -> "Lines":
        """The JSON objects of a file, and the lines that are none; nothing if there is no file.

        `why_invalid` says what is wrong with an object; "" if nothing is. Skips a torn last line, which
        a kill leaves, without a word. Raises `UserError` if the file cannot be read.
        """
        lines = cls(path, [], [])
        try:
            raw = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return lines
        except OSError as error:
            raise UserError.unreadable(path, error) from None
        for number, line in enumerate(raw, 1):
            record = _parse(line)
            if isinstance(record, dict):
                why = why_invalid(record)
            elif record is not None:
                why = "not an object"
            elif not line.strip() or number == len(raw):
                continue
            else:
                why = "not JSON"
            if why:
                lines.left_out.append(_LeftOut(number, why))
            else:
                lines.records.append(record)
        return lines

    @staticmethod
    def append(path: Path, record: Mapping[str, Any], elsewhere: str = ELSEWHERE) -> None:
        """Appends one JSON object by a single write, so that a kill tears at most the last line.

        Cuts off a torn last line first. Only one process at a time may write the file. Raises
        `SaveError`; for a file that nobody may write to, the advice is `elsewhere`.
        """
        line = (json.dumps(record) + "\n").encode()
        try:
            with path.open("ab+", buffering=0) as file:
                if _mend_end(file):
                    line = b"\n" + line
                failpoint("log")
                if (file.write(line) or 0) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise SaveError.at(path, error, elsewhere) from error

    @staticmethod
    def is_number(value: Any) -> bool:
        """Whether a value from JSON is a finite number that a float holds."""
        return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max

    @staticmethod
    def is_count(value: Any) -> bool:
        """Whether a value from JSON is a whole number from 0."""
        return type(value) is int and 0 <= value < 2**63

    def note(self, most: int = 5) -> str:
        """Which lines were left out and why, in one line; "" if none was. Names at most `most`."""
        if not self.left_out:
            return ""
        shown = ", ".join(f"line {left.line} ({left.why})" for left in self.left_out[:most])
        more = f" and {len(self.left_out) - most} more" if len(self.left_out) > most else ""
        total = len(self.records) + len(self.left_out)
        return f"{self.path.name}: {len(self.left_out)} of {total} lines left out: {shown}{more}"

    def warn(self) -> None:
        """Logs which lines were left out, if any was."""
        if note := self.note():
            log(f"qgf: warning: {self.path.parent}/{note}")


def _mend_end(file: BinaryIO) -> bool:
    """Cuts off a torn last line. Returns whether the last line is whole and lacks its line break."""
    end = file.seek(0, os.SEEK_END)
    start, tail = end, b""
    while start and b"\n" not in tail:
        start = max(0, start - _BLOCK)
        file.seek(start)
        tail = file.read(end - start)
    tail = tail[tail.rfind(b"\n") + 1 :]
    if tail and _parse(tail) is None:
        file.truncate(end - len(tail))
        return False
    return bool(tail)


_BLOCK = 1 << 16  # bytes


def _parse(line: bytes) -> Any:
    """The value of a line; `None` if it is not JSON, or null, which no record is."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
