"""Runs one job here, whatever engine has brought it: `qgf sweep run-job FOLDER NAME`.

Its exit code says how it went: 0 done, `ELSEWHERE` if another process is at it, and else that of the
command that failed, as docs/reliability.md lists them; 128 + n if a signal stopped it.
"""

import contextlib
import datetime
import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from qgf_jax.errors import UserError, saving
from qgf_jax.runs.locks import JOB
from qgf_jax.runs.signals import StopRequest
from qgf_jax.runtime import children
from qgf_jax.sweep.job import Stage
from qgf_jax.sweep.plan import Plan, Planned
from qgf_jax.sweep.state import Failure, Record

ELSEWHERE = 75
"""The exit code where another process works on the job."""
LOG = "job.log"
"""The file in the run folder with what its commands say."""
_CANCEL = "sweep.cancel"
_TAIL = 1 << 16  # bytes of a log
_PATIENCE = 2.0  # seconds for a lock that a look at it may hold for a moment
_POLL = 0.2  # seconds
_LOOK = 1.0  # seconds between looks for the file by which a sweep is cancelled


class Cancellation(NamedTuple):
    """The wish that all jobs of a sweep save and end, on all machines that see its folder."""

    folder: Path

    def ask(self) -> None:
        """Wishes it."""
        (self.folder / _CANCEL).touch()

    @property
    def wanted(self) -> bool:
        """Whether it was wished since a sweep began there."""
        return (self.folder / _CANCEL).exists()

    def withdraw(self) -> None:
        """Takes a former wish back."""
        (self.folder / _CANCEL).unlink(missing_ok=True)


def command(folder: Path, name: str) -> tuple[str, ...]:
    """The words that run a job on any machine that sees the folder."""
    return tuple(children.command("qgf_jax", "sweep", "run-job", str(folder.resolve()), name))


def run_job(folder: Path, name: str) -> int:
    """Runs the stages that a job lacks, one after the other, until one fails. Returns the exit code.

    On SIGTERM and SIGINT, and once the sweep is cancelled, the command at work saves and ends.
    Raises `UserError` for a job that the folder does not know, and `Stopped` for a signal.
    """
    jobs = Plan.read(folder).jobs
    if name not in jobs:
        raise UserError.unknown("job", name, jobs)
    planned, workdir = jobs[name], folder / name
    kept = f"job {name}: the same sweep goes on with it"
    with StopRequest() as stop, contextlib.ExitStack() as stack:
        if (lock := _acquire(stack, workdir)) is None:
            return ELSEWHERE
        for stage in Record.read(workdir).lacks(planned, folder):
            stop.check(kept)
            if Cancellation(folder).wanted:
                return 128 + signal.SIGTERM
            if code := _run(planned, folder, stage, stop, lock):
                stop.check(kept)
                return code
    return 0


def _acquire(stack: contextlib.ExitStack, workdir: Path) -> int | None:
    """The descriptor of the job's lock; `None` if another process keeps it."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return stack.enter_context(JOB.lock(workdir))
        except UserError:
            if not JOB.holder(workdir) and time.monotonic() > end:
                raise  # the folder cannot be written
            if time.monotonic() > end:
                return None
        time.sleep(_POLL)


def _run(planned: Planned, folder: Path, stage: Stage, stop: StopRequest, lock: int) -> int:
    """Runs a stage to its end and notes in the run folder how it went. Returns the exit code."""
    workdir = folder / planned.name
    begun = _note(workdir / LOG, f"qgf {shlex.join(stage.words)}", before="\n")
    clock = _Clock()
    process = children.start_logged(
        children.command("qgf_jax", *stage.words),
        workdir / LOG,
        env=_environment(planned, folder),
        pass_fds=(lock,),  # the job is locked as long as its command lives, even without us
    )
    code = _wait(process, stop, folder)
    record = Record.read(workdir)
    if code == 0:
        record.with_done(planned, folder, stage).write(workdir)
        _note(workdir / LOG, f"qgf {stage.kind}: done in {clock}")
    elif not (stop.wanted or Cancellation(folder).wanted):
        line = _last_words(workdir / LOG, begun) or _said(code)
        record._replace(failure=Failure(code, line, socket.gethostname())).write(workdir)
    return code


class _Clock:
    """Since it was made: how long that is, and what this process's children took of a CPU."""

    def __init__(self) -> None:
        self._begun = time.monotonic(), self._used()

    @staticmethod
    def _used() -> float:
        """CPU seconds of the children that have ended, and of theirs."""
        times = os.times()
        return times.children_user + times.children_system

    def __str__(self) -> str:
        begun, used = self._begun
        return f"{time.monotonic() - begun:.2f} s, {self._used() - used:.2f} s of a CPU"


def _note(path: Path, text: str, *, before: str = "") -> int:
    """Writes a line with time and host to the log, and returns the log's length. Raises `SaveError`."""
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    line = f"{before}{now} on {socket.gethostname()}: {text}\n"
    with saving(path), path.open("ab") as log:
        log.write(line.encode())
        return log.tell()


_OWN_PART = 0.9
"""Of a job's part of a device the part that JAX reserves; each process takes some more for itself."""
_FRACTIONS = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")


def _environment(planned: Planned, folder: Path) -> dict[str, str]:
    """This process's; a job without a device stays on the CPU, one with a part of one in its memory.

    At Weights & Biases the runs of a sweep are a group, unless they have one.
    """
    needs, own = planned.job.needs, {}
    if not needs.devices:
        own["JAX_PLATFORMS"] = "cpu"
    if needs.shares and not any(name in os.environ for name in _FRACTIONS):
        own[_FRACTIONS[0]] = f"{needs.devices * _OWN_PART:.4f}"
    return {"WANDB_RUN_GROUP": folder.resolve().name, **os.environ, **own}


def _wait(process: subprocess.Popen, stop: StopRequest, folder: Path) -> int:
    """The exit code of a process, which is asked to end once, if we are; 128 + n for signal n."""
    asked, cancelled, look = False, False, 0.0
    while True:
        if time.monotonic() >= look and not stop.wanted:
            look = time.monotonic() + _LOOK
            cancelled = Cancellation(folder).wanted
        if not asked and (stop.wanted or cancelled):
            process.terminate()
            asked = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(_POLL)
            return 128 - code if code < 0 else code


def _said(code: int) -> str:
    """An exit code in words."""
    return f"killed by signal {code - 128}" if code > 128 else f"exit code {code}"


def failure_of(workdir: Path, code: int) -> str:
    """Why a job has ended with a code, in one line."""
    failure = Record.read(workdir).failure
    if failure and failure.code == code:
        return failure.line
    # The runner itself failed, and has said so; a signal lets nobody say anything.
    return (_last_words(workdir / LOG) if code < 128 else "") or _said(code)


def _last_words(path: Path, begun: int = 0) -> str:
    """The last line that a command wrote about its end; else its last line; "" without a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(begun, file.seek(0, os.SEEK_END) - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    own = [line for line in lines if line.startswith(("qgf: error:", "qgf: stopped:"))]
    return (own or lines or [""])[-1][:300].removeprefix("qgf: error: ")
