"""Where numbers go while training: JSON lines, TensorBoard, and W&B if the config asks for it."""

import collections
import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qgf_jax.errors import log
from qgf_jax.runs.files import Lines, sync
from qgf_jax.runs.tracking import Tracker

_NOT_FINITE = ("nan", "inf", "-inf")


class Clock:
    """Wall time by activity, in seconds; the activities sum to the whole."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Adds the time since the last call to `name`."""
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now

    def goodput(self) -> str:
        """Where the time went; "data" is the time in which the devices waited for data."""
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        share = self.seconds["train"] / max(sum(self.seconds.values()), 1e-9)
        return f"goodput {share:.2f}: {parts}"


class MetricsLog:
    """A run's scalars, of which this process is the only writer. Skips a step that is there already."""

    def __init__(self, path: Path, tracker: Tracker):
        self.path = path
        lines = self.read(path)
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

    @staticmethod
    def read(path: Path) -> Lines:
        """A run's metrics.jsonl: `step` and scalars; "nan", "inf" and "-inf" become floats again."""

        def why_invalid(line: Mapping[str, Any]) -> str:
            if not Lines.is_count(line.get("step")):
                return "step is no whole number" if "step" in line else "step is missing"
            wrong = (k for k, v in line.items() if not Lines.is_number(v) and v not in _NOT_FINITE)
            name = next(wrong, "")
            return name and f"{name[:40]!r} is no number"

        lines = Lines.read(path, why_invalid)
        for record in lines.records:
            record |= {k: float(v) for k, v in record.items() if isinstance(v, str)}
        return lines

    def write(self, step: int, scalars: Mapping[str, float], **other: float) -> None:
        """One line: `step`, `other` (times and rates, which differ from run to run) and `scalars`."""
        if step <= self.last:
            return
        self.last = step
        clean = {k: v if math.isfinite(v) else str(v) for k, v in scalars.items()}
        Lines.append(self.path, {"step": step, **other, **clean})
        for name, value in {**scalars, **other}.items():
            if math.isfinite(value) and self._tensorboard_lives():
                self._tensorboard.add_scalar(name, value, step)
        self._tracker.log(step, {**scalars, **other})

    def _tensorboard_lives(self) -> bool:
        """Whether its thread still runs: a full disk ends it, and a write after that waits for ever."""
        if self._tensorboard is None:
            return False
        worker = self._tensorboard.file_writer.event_writer._worker
        if not worker.is_alive():
            log("qgf: warning: TensorBoard's writer has died; metrics.jsonl goes on")
            self._tensorboard = None
        return self._tensorboard is not None

    def sync(self) -> None:
        """Forces the lines to disk; call it before saving a checkpoint that counts on them."""
        if self.path.exists():
            sync(self.path)

    def close(self) -> None:
        """Flushes everything."""
        if self._tensorboard_lives():
            with contextlib.suppress(OSError):
                self._tensorboard.close()
