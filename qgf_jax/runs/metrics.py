"""Where numbers go while training: JSON lines, TensorBoard, and W&B if it is asked for."""

import collections
import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from qgf_jax.errors import ELSEWHERE, SaveError, log, unreadable
from qgf_jax.runs import failpoints
from qgf_jax.runs.tracking import Tracker


def append_line(path: Path, record: Mapping[str, Any], elsewhere: str = ELSEWHERE) -> None:
    """Appends one JSON object by a single write, so that a kill leaves at most one torn last line.

    Such a line is cut off first. For the one process that writes the file. Raises `SaveError`, which
    for a file that nobody may write to advises `elsewhere`.
    """
    line = (json.dumps(record) + "\n").encode()
    try:
        with path.open("ab+", buffering=0) as file:
            if _mend_end(file):
                line = b"\n" + line
            failpoints.failpoint("log")
            if (file.write(line) or 0) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise SaveError.at(path, error, elsewhere) from error


def _mend_end(file: BinaryIO) -> bool:
    """Cuts a torn last line off. True if a whole one has lost its line break alone."""
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


_BLOCK = 1 << 16


class LeftOut(NamedTuple):
    """A line of a file that does not count."""

    line: int
    """Its number, from 1."""
    why: str


class Lines(NamedTuple):
    """What a file of JSON lines holds."""

    path: Path
    records: list[dict[str, Any]]
    left_out: list[LeftOut]

    def note(self, most: int = 5) -> str:
        """Which lines were left out and why, in one line; empty if there were none."""
        if not self.left_out:
            return ""
        shown = ", ".join(f"line {one.line} ({one.why})" for one in self.left_out[:most])
        more = f" and {len(self.left_out) - most} more" if len(self.left_out) > most else ""
        total = len(self.records) + len(self.left_out)
        return f"{self.path.name}: {len(self.left_out)} of {total} lines left out: {shown}{more}"

    def warn(self) -> None:
        """Says on standard error which lines were left out, if there were any."""
        if note := self.note():
            log(f"qgf: warning: {self.path.parent}/{note}")


def scan(path: Path, fault: Callable[[Mapping[str, Any]], str] | None = None) -> Lines:
    """The JSON objects of a file, and the lines that are none; nothing if there is no file.

    `fault` says what is wrong with an object, or nothing. A torn last line, which a kill leaves, is
    passed over silently. Raises `UserError` if the file cannot be read.
    """
    found = Lines(path, [], [])
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return found
    except OSError as error:
        raise unreadable(path, error) from None
    for number, line in enumerate(lines, 1):
        record = _parse(line)
        if isinstance(record, dict):
            why = fault(record) if fault else ""
        elif record is not None:
            why = "not an object"
        elif not line.strip() or number == len(lines):
            continue
        else:
            why = "not JSON"
        if why:
            found.left_out.append(LeftOut(number, why))
        else:
            found.records.append(record)
    return found


def _parse(line: bytes) -> Any:
    """`None` if it is not JSON; a null is none of our records either."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, whatever they hold; nothing if there is no file."""
    return scan(path).records


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number that a float holds."""
    return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max


def is_count(value: Any) -> bool:
    """Whether a value from JSON is a whole number from 0."""
    return type(value) is int and 0 <= value < 2**63


_NOT_FINITE = ("nan", "inf", "-inf")


def read_metrics(path: Path) -> Lines:
    """A run's metrics.jsonl: `step`, and numbers; those that are not finite become floats again."""

    def fault(line: Mapping[str, Any]) -> str:
        if not is_count(line.get("step")):
            return "step is no whole number" if "step" in line else "step is missing"
        wrong = (k for k, v in line.items() if not is_number(v) and v not in _NOT_FINITE)
        name = next(wrong, "")
        return name and f"{name[:40]!r} is no number"

    lines = scan(path, fault)
    for record in lines.records:
        record |= {k: float(v) for k, v in record.items() if isinstance(v, str)}
    return lines


class Clock:
    """Wall time by what it was spent on; the parts sum to the whole."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Books all time since the last call under `name`."""
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now

    def share(self, name: str) -> float:
        """Of the whole, between 0 and 1."""
        return self.seconds[name] / max(sum(self.seconds.values()), 1e-9)


class Writer:
    """Writes scalars of a run. A step that is already there is not written again."""

    def __init__(self, path: Path, tracker: Tracker):
        self.path = path
        lines = read_metrics(path)
        lines.warn()
        self.last = max((line["step"] for line in lines.records), default=-1)
        self._tensorboard: Any = None
        try:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(path.parent / "tensorboard"))
        except ModuleNotFoundError as error:
            log(f"qgf: {error.name} is not installed: no events for TensorBoard are written")
        except OSError:
            pass  # metrics.jsonl will say what the disk lacks
        self._tracker = tracker

    def write(self, step: int, scalars: Mapping[str, float], **other: float) -> None:
        """One line: step, `other` (times and rates, which differ from run to run), and scalars."""
        if step <= self.last:
            return
        self.last = step
        clean = {k: v if math.isfinite(v) else str(v) for k, v in scalars.items()}
        append_line(self.path, {"step": step, **other, **clean})
        for name, value in {**scalars, **other}.items():
            if math.isfinite(value) and self._tensorboard_lives():
                self._tensorboard.add_scalar(name, value, step)
        self._tracker.log(step, {**scalars, **other})

    def _tensorboard_lives(self) -> bool:
        """Its thread dies of a full disk, and whoever writes after that waits for ever."""
        if self._tensorboard is None:
            return False
        worker = self._tensorboard.file_writer.event_writer._worker
        if not worker.is_alive():
            log("qgf: warning: TensorBoard's writer has died; metrics.jsonl goes on")
            self._tensorboard = None
        return self._tensorboard is not None

    def sync(self) -> None:
        """Forces the lines to disk, before a checkpoint says that they are there."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Flushes everything."""
        if self._tensorboard_lives():
            with contextlib.suppress(OSError):
                self._tensorboard.close()
