"""What is left of a job, read from its run folder and from nothing else.

A run folder of a sweep has `job.json` beside what `qgf train` and `qgf evaluate` write: which commands
came to their end there, and by what that can be seen to be so still. If it says less than is true, as
where somebody has trained by hand, a command runs once more, finds all done and ends. A file lock,
`job.lock`, is held while a job runs.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.files import write_atomically
from qgf_jax.runs.locks import JOB
from qgf_jax.sweep.job import Job, Stage
from qgf_jax.sweep.plan import Plan, Planned

_FILE = "job.json"
_TAIL = 1 << 14  # bytes of metrics.jsonl: its last lines
WORDS = ("done", "running", "failed", "stopped", "waiting")
"""stopped: begun, not done, and nobody is at it; waiting: not begun."""


class Failure(NamedTuple):
    """How a job ended that is not done."""

    code: int
    """The exit code of its command."""
    line: str
    """What it said last."""
    host: str = ""


class Record(NamedTuple):
    """A run folder's job.json."""

    trained: dict[str, Any]
    """The planned identity and the last step of a training that came to its end."""
    evaluated: dict[str, Any]
    """By flags: the checkpoint's step, and length and digest of episodes.jsonl at the end."""
    failure: Failure | None = None
    """Of the last try; `None` if that did not fail."""

    @classmethod
    def read(cls, workdir: Path) -> "Record":
        """That of a run folder; an empty one if there is none, or none that can be read."""
        try:
            found = json.loads((workdir / _FILE).read_text())
            failure = found["failure"] and Failure(**found["failure"])
            return cls(dict(found["trained"]), dict(found["evaluated"]), failure)
        except (OSError, ValueError, LookupError, TypeError):
            return cls({}, {})

    def write(self, workdir: Path) -> None:
        """Makes it the folder's. Raises `SaveError`."""
        failure = self.failure and self.failure._asdict()
        write_atomically(workdir / _FILE, json.dumps({**self._asdict(), "failure": failure}))

    def with_done(self, planned: Planned, folder: Path, stage: Stage) -> "Record":
        """As it is once a stage has come to its end."""
        step = _sealed(planned.job, folder)
        if stage.kind == "train":
            return self._replace(trained={"identity": planned.identity, "step": step}, failure=None)
        length, digest = _digest(folder / planned.name / "episodes.jsonl")
        mark = {"step": step, "bytes": length, "digest": digest}
        return self._replace(evaluated={**self.evaluated, stage.flags: mark}, failure=None)

    def lacks(self, planned: Planned, folder: Path) -> list[Stage]:
        """The stages that are still to run, in order."""
        step = _sealed(planned.job, folder)
        if planned.job.trains and not self._has_trained(planned, step):
            return planned.stages(folder)
        return [
            stage
            for stage in planned.stages(folder)
            if stage.kind == "evaluate" and not self._has_evaluated(planned, folder, stage, step)
        ]

    def _has_trained(self, planned: Planned, step: int) -> bool:
        mark = {"identity": planned.identity, "step": step}
        return self.trained == mark and step >= max(planned.steps, 1)

    def _has_evaluated(self, planned: Planned, folder: Path, stage: Stage, step: int) -> bool:
        """Whether all lines are there that were there when the evaluation had come to its end."""
        mark = self.evaluated.get(stage.flags)
        if not isinstance(mark, Mapping) or mark.get("step") != step:
            return False
        found = _digest(folder / planned.name / "episodes.jsonl", mark["bytes"])
        return found == (mark["bytes"], mark["digest"])


def _sealed(job: Job, folder: Path) -> int:
    """The newest sealed step of what a job evaluates; 0 if there is none."""
    return max(Checkpoints(job.trained_in(folder)).steps(), default=0)


def _digest(path: Path, most: int | None = None) -> tuple[int, str]:
    """Length and digest of a file, or of its first `most` bytes; lines are only ever added."""
    try:
        with path.open("rb") as file:
            content = file.read(-1 if most is None else most)
    except OSError:
        content = b""
    return len(content), xxhash.xxh3_128_hexdigest(content)


class State(NamedTuple):
    """Where a job is."""

    name: str
    word: str
    """One of `WORDS`."""
    doing: str = ""
    """ "train" or "evaluate": what runs, or what is next."""
    step: int = 0
    steps: int = 0
    """0 where nobody knows yet, or nothing is trained."""
    rate: float | None = None
    """Updates a second of the last training."""
    losses: Mapping[str, float] = {}
    """By parameter group, of the last line of metrics."""
    episodes: int = 0
    """Lines of episodes.jsonl, of a job that is not done."""
    host: str = ""
    line: str = ""
    """Why it failed."""

    @property
    def seconds_left(self) -> float | None:
        """Of training, at its rate."""
        if not self.rate or not self.steps:
            return None
        return max(0, self.steps - self.step) / self.rate

    @property
    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**self._asdict(), "seconds_left": self.seconds_left}

    @classmethod
    def of_jobs(cls, plan: Plan) -> list["State"]:
        """The states of all jobs, in their order."""
        return [cls.read(one, plan.folder) for one in plan.jobs.values()]

    @classmethod
    def read(cls, planned: Planned, folder: Path) -> "State":
        """That of a job in a sweep's folder."""
        workdir = folder / planned.name
        if not workdir.is_dir():
            return cls(planned.name, "waiting", steps=planned.steps)
        record = Record.read(workdir)
        lacking, metrics = record.lacks(planned, folder), _last_line(workdir / "metrics.jsonl")
        state = cls(
            planned.name,
            "done",
            doing=lacking[0].kind if lacking else "",
            step=metrics.get("step", 0),
            steps=planned.steps or (planned.job.trains and _steps_of(workdir)) or 0,
            rate=metrics.get("steps_per_second"),
            losses={k[:-5]: v for k, v in metrics.items() if k.endswith("/loss")},
        )
        if not lacking:
            return state
        state = _unfinished(state, record, workdir)
        return state._replace(episodes=_lines(workdir / "episodes.jsonl"))


def _unfinished(state: State, record: Record, workdir: Path) -> State:
    """With the word, host and line of a job that is not done."""
    if holder := JOB.holder(workdir):
        return state._replace(word="running", host=_host(holder))
    if failure := record.failure:
        return state._replace(word="failed", host=failure.host, line=failure.line)
    is_begun = (workdir / "config.json").exists()
    return state._replace(word="stopped" if is_begun else "waiting")


def _host(holder: str) -> str:
    """HOST of "process N on HOST since TIME"."""
    words = holder.split()
    return words[3] if len(words) > 3 else ""


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a file of JSON lines; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return {k: v for k, v in found.items() if isinstance(v, int | float)}
    return {}


def _steps_of(workdir: Path) -> int:
    """The last step that a run's own config names; 0 if it has none."""
    try:
        return int(json.loads((workdir / "config.json").read_text())["config"]["train"]["steps"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
