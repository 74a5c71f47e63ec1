"""Where numbers go while training: JSON lines, TensorBoard, and W&B if it is asked for."""

import collections
import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qgf_jax import faults
from qgf_jax.errors import SaveError, say
from qgf_jax.tracking import Tracker


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Appends one JSON object by a single write, so that a kill leaves at most one torn last line."""
    line = (json.dumps(record) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        if _torn(path):
            line = b"\n" + line
        faults.point("log")
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise SaveError.at(path, error) from error
    finally:
        os.close(descriptor)


def _torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, torn lines left out; nothing if there is no file."""
    if not path.exists():
        return
    with path.open() as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


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
        from tensorboardX import SummaryWriter

        self.path = path
        self.last = max((line["step"] for line in read_lines(path) if "step" in line), default=-1)
        self._tensorboard: Any = None
        with contextlib.suppress(OSError):
            self._tensorboard = SummaryWriter(str(path.parent / "tensorboard"))
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
            say("qgf: warning: TensorBoard's writer has died; metrics.jsonl goes on")
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
