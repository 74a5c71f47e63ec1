"""Jobs of a Slurm cluster: arrays by `sbatch`, states by `squeue`, exit codes by small files.

The three programs are called by themselves. The library submitit would keep each task and its result as
a pickle, which this project reads nowhere, leaves SIGTERM to nobody, and asks `sacct`, which needs a
database that small clusters lack.
"""

import dataclasses
import datetime
import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Annotated

from qgf_guide.bounds import Bound, Index
from qgf_jax.errors import UserError, log, log_once, one_line, saving
from qgf_jax.runtime import children
from qgf_jax.sweep.engines import ENGINES, Engine, Task
from qgf_jax.sweep.job import Needs
from qgf_jax.sweep.slurm_job import STOP, code_file

_FOLDER = "sweep.slurm"
"""Below the sweep's folder: a folder for each sweep, and in it one for each array."""
_ARRAY = 1000  # jobs; Slurm's own limit is 1001 unless a site says otherwise
_LOOK = 1.0  # seconds between looks for exit codes
_ASK = 15.0  # seconds between questions to the controller, which has other users
_AGAIN = 60.0  # seconds until what was refused, as by a limit on queued jobs, is offered again
_SLOW = 60.0  # seconds that a controller may take to answer
_LOST = 101
"""The exit code of a job that ended without one; any above 100 is tried again."""
_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
"""States that nothing follows."""
_WHOLE = (
    "--gres counts whole devices, and this job needs a part of one: give --gres=none and what the site "
    'has for parts, as --sbatch="--gres=shard:1"'
)
_PATIENT = {"None", "Priority", "Resources", "BeginTime", "JobArrayTaskLimit", "Cleaning"}
"""Why a job waits, where that passes."""


class _TimeLimit(Bound):
    """A time as Slurm has it, as text; "" for none."""

    @property
    def says(self) -> str:
        """How one is written."""
        return "a time H:MM:SS or D-HH:MM:SS"

    def holds(self, value: object) -> bool:
        """Whether `value` is one that is longer than nothing, or is none."""
        return isinstance(value, str) and (not value or _seconds(value) > 0)

    def parse(self, text: str) -> str:
        """The text itself."""
        return text


def _seconds(text: str) -> int:
    """Of a time limit; 0 if it is none."""
    found = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,4}):([0-5]\d):([0-5]\d)", text)
    if not found:
        return 0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@ENGINES.declare
def _slurm(
    *,
    partition: Annotated[str, "as of sbatch; else the site's default"] = "",
    time: Annotated[str, _TimeLimit(), "limit, H:MM:SS; else needs.hours"] = "",
    account: Annotated[str, "as of sbatch"] = "",
    qos: Annotated[str, "as of sbatch"] = "",
    gres: Annotated[str, "what a device is, as gpu:a100; none: nobody asks for one"] = "gpu",
    constraint: Annotated[str, "features of nodes, as of sbatch"] = "",
    sbatch: Annotated[str, 'more flags of sbatch, as "--exclude=n3 --nice=100"'] = "",
    at_once: Annotated[Index, "most jobs that run and wait in the queue; 0: all"] = 0,
    notice: Annotated[Index, "seconds before the limit in which a job saves"] = 60,
) -> Engine:
    """Jobs of a Slurm cluster."""
    for program in ("sbatch", "squeue", "scancel"):
        if not shutil.which(program):
            raise UserError(
                f"--on=slurm: there is no program {program}: start the sweep where jobs are "
                "submitted, as on a login node"
            )
    named = {"partition": partition, "account": account, "qos": qos, "constraint": constraint}
    words = [f"--{name}={text}" for name, text in named.items() if text]
    try:
        words += shlex.split(sbatch)
    except ValueError as error:
        raise UserError(f"--sbatch is {sbatch!r}: {error}: close the quotation") from None
    return _Cluster(_Flags(tuple(words), time, gres, notice), at_once)


@dataclasses.dataclass(frozen=True)
class _Flags:
    """Those of `sbatch`."""

    same: tuple[str, ...]
    limit: str
    gres: str
    notice: int

    def of(self, needs: Needs) -> list[str]:
        """For jobs with equal needs."""
        seconds = _seconds(self.limit) or math.ceil(needs.hours * 3600)
        words = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={needs.cores}", "--requeue"]
        if needs.memory_gib:  # 0 would be all that the node has
            words.append(f"--mem={math.ceil(needs.memory_gib * 1024)}M")
        if needs.devices and self.gres != "none":
            words.append(f"--gres={self.gres}:{needs.devices}")
        if seconds:
            words.append(f"--time={math.ceil(seconds / 60)}")
        # B: the job's first process alone, which passes it on once. A notice as long as the limit would
        # come at the start.
        notice = min(self.notice, seconds // 2) if seconds else self.notice
        return [*words, f"--signal=B:TERM@{notice}", *self.same]


@dataclasses.dataclass
class _Begun:
    """A job that was submitted."""

    task: Task
    folder: Path
    index: int
    unseen: int = 0
    """How often in a row it was over, and there was no exit code."""


class _RefusedError(Exception):
    """What a program of Slurm said, in one line."""


class _Cluster:
    """An engine."""

    def __init__(self, flags: _Flags, at_once: int):
        self._flags, self._at_once = flags, at_once
        self._begun: dict[str, _Begun] = {}
        """By "JOB_INDEX", as `squeue` has it."""
        self._over: list[tuple[Task, int]] = []
        self._accepted: set[Needs] = set()
        self._arrays = 0
        self._root: Path | None = None
        self._stopping = False
        self._look = self._ask = self._again = 0.0

    def start(self, tasks: Sequence[Task]) -> list[Task]:
        """All of them, unless there is a limit: those that are ready at once in few arrays."""
        room = self._at_once - len(self._begun) if self._at_once else len(tasks)
        started: list[Task] = []
        if monotonic() < self._again:
            return started
        for group in _groups(tasks[: max(room, 0)]):
            if self._is_impossible(group) or self._submit(group):
                started += group
        return started

    def _is_impossible(self, tasks: Sequence[Task]) -> bool:
        """Whether the tasks are over, as they ask for a part of what a site counts in whole ones."""
        impossible = tasks[0].needs.shares and self._flags.gres != "none"
        for task in tasks if impossible else ():
            _say(task, _WHOLE)
            self._over.append((task, 2))
        return impossible

    def _submit(self, tasks: Sequence[Task]) -> bool:
        """Whether the tasks are begun, or over as Slurm will never take them.

        Raises `UserError` if it has taken none so far.
        """
        folder, needs = self._next_folder(tasks[0]), tasks[0].needs
        script = folder / "script.sh"
        with saving(script):
            folder.mkdir(parents=True)
            script.write_text(_script(folder, tasks))
        try:
            number = _submitted(folder, self._flags.of(needs), len(tasks), script)
        except _RefusedError as error:
            return self._is_settled(tasks, str(error))
        self._accepted.add(needs)
        for index, task in enumerate(tasks):
            self._begun[f"{number}_{index}"] = _Begun(task, folder, index)
        self._ask = monotonic() + _ASK
        return True

    def _is_settled(self, tasks: Sequence[Task], line: str) -> bool:
        """After a refusal: whether the tasks are over, as their needs are what Slurm cannot meet."""
        if not self._accepted:
            raise UserError(f"{line}: mend the flags or the needs; --gres=none asks for no GPU")
        if tasks[0].needs in self._accepted:
            log_once(f"qgf: warning: {line}: trying again every {_AGAIN:.0f} s")
            self._again = monotonic() + _AGAIN
            return False
        for task in tasks:
            _say(task, line)
        self._over += [(task, 2) for task in tasks]
        return True

    def _next_folder(self, task: Task) -> Path:
        if self._root is None:
            now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
            self._root = task.log.absolute().parent.parent / _FOLDER / f"{now}-{os.getpid()}"
        self._arrays += 1
        return self._root / str(self._arrays)

    def ended(self) -> list[tuple[Task, int]]:
        """Those that have left an exit code; seldom asks Slurm which have ended without one."""
        over, self._over = self._over, []
        now = monotonic()
        if self._begun and now >= self._look:
            self._look = now + _LOOK
            over += self._with_codes()
        if self._begun and now >= self._ask:
            self._ask = now + (_LOOK if self._stopping else _ASK)
            over += self._without_codes()
        return over

    def _with_codes(self) -> list[tuple[Task, int]]:
        folders = {one.folder for one in self._begun.values()}
        there = {folder: set(_names(folder)) for folder in folders}
        keys = [k for k, one in self._begun.items() if code_file(one.index) in there[one.folder]]
        found = [self._begun.pop(key) for key in keys]
        return [(one.task, _code(one.folder / code_file(one.index))) for one in found]

    def _without_codes(self) -> list[tuple[Task, int]]:
        """Those whose machine was lost, or that were killed or cancelled.

        Seen over twice: an exit code may reach this machine later than the state does.
        """
        try:
            states = _states()
        except _RefusedError as error:
            log_once(f"qgf: warning: {error}: asking again")
            return []
        if self._stopping:
            self._cancel_waiting()  # again: what was about to be queued again
        self._look_at(states)
        return [(self._lose(key, states), _LOST) for key in self._unseen()]

    def _look_at(self, states: Mapping[str, tuple[str, str]]) -> None:
        """Counts how often in a row a job was not waiting or running, and says why one waits."""
        for key, one in self._begun.items():
            state, reason = states.get(key, ("", ""))
            one.unseen = one.unseen + 1 if not state or state in _OVER else 0
            if state == "PENDING" and reason not in _PATIENT:
                log_once(f"qgf: {one.task.name}: waits in Slurm's queue: {one_line(reason)}")

    def _unseen(self) -> list[str]:
        return [key for key, one in self._begun.items() if one.unseen > 1]

    def _lose(self, key: str, states: Mapping[str, tuple[str, str]]) -> Task:
        """Takes a job for lost, and says so unless it was taken back."""
        task, state = self._begun.pop(key).task, states.get(key, ("unknown",))[0]
        if not self._stopping:
            _say(task, f"Slurm's job {key} ended without an exit code: {state}")
        return task

    def stop(self) -> None:
        """Takes back what waits; what runs saves and ends, and is not queued again."""
        if self._root is None:
            return
        with saving(self._root / STOP):
            (self._root / STOP).touch()
        self._stopping, self._ask = True, 0.0
        self._cancel_waiting()
        self._cancel("--batch", "--signal=TERM")

    def _cancel_waiting(self) -> None:
        self._cancel("--state=PENDING")

    def _cancel(self, *flags: str) -> None:
        arrays = sorted({key.partition("_")[0] for key in self._begun})
        try:
            if arrays:
                _call("scancel", "--quiet", *flags, *arrays)
        except _RefusedError as error:
            log_once(f"qgf: warning: {error}")


def _groups(tasks: Iterable[Task]) -> list[list[Task]]:
    """Tasks of equal needs, in order, at most as many together as an array has room for."""
    by_needs: dict[Needs, list[Task]] = {}
    for task in tasks:
        by_needs.setdefault(task.needs, []).append(task)
    return [
        same[first : first + _ARRAY]
        for same in by_needs.values()
        for first in range(0, len(same), _ARRAY)
    ]


def _script(folder: Path, tasks: Sequence[Task]) -> str:
    """What `sbatch` keeps a copy of: nothing that is in the folder later is run."""
    lines = ["#!/bin/sh", "case $SLURM_ARRAY_TASK_ID in"]
    for index, task in enumerate(tasks):
        words = [str(folder), str(index), str(task.cwd), str(task.log.absolute()), *task.command]
        lines.append(f"{index}) set -- {shlex.join(words)} ;;")
    job = shlex.join(children.command("qgf_jax.sweep.slurm_job"))
    return "\n".join([*lines, "esac", f'exec {job} "$@"', ""])


def _submitted(folder: Path, flags: Sequence[str], count: int, script: Path) -> str:
    """The number of a new array. Raises `_RefusedError`."""
    said = _call(
        "sbatch",
        "--parsable",
        "--job-name=qgf",
        f"--array=0-{count - 1}",
        f"--chdir={folder}",
        "--output=%a.out",
        "--open-mode=append",
        *flags,
        str(script),
    )
    number = said.strip().rpartition("\n")[2].partition(";")[0]
    if not number.isdecimal():
        raise _RefusedError(f"sbatch said {said[:100]!r} and no number of a job")
    return number


def _states() -> Mapping[str, tuple[str, str]]:
    """State and reason of this user's jobs by "JOB_INDEX", for some minutes after their end too."""
    said = _call("squeue", "-h", "-r", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%r")
    rows = [line.strip().split("|", 2) for line in said.splitlines()]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def _call(program: str, *words: str) -> str:
    """What a program prints. Raises `_RefusedError`."""
    # A sweep may itself be started in a job; of that job's own variables some would be taken for flags.
    own = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
    try:
        done = subprocess.run(
            [program, *words],
            env=own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SLOW,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _RefusedError(f"{program} has not answered in {_SLOW:.0f} s") from None
    except OSError as error:
        raise _RefusedError(f"{program} could not be started: {error.strerror}") from None
    # scancel --quiet fails without a word where it finds nothing to cancel.
    if done.returncode and (done.stderr.strip() or "--quiet" not in words):
        said = " ".join(done.stderr.split())[:300] or f"exit code {done.returncode}"
        raise _RefusedError(f"{program}: {said.removeprefix(f'{program}: error: ')}")
    return done.stdout


def _say(task: Task, line: str) -> None:
    """Writes to a task's log why it has ended, where its sweep looks for that."""
    try:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("a") as file:
            file.write(f"qgf: error: {one_line(line)}\n")
    except OSError:
        log(f"qgf: {task.name}: {line}")


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _code(path: Path) -> int:
    """The exit code that a job has written."""
    try:
        text = path.read_text()
    except OSError:
        return _LOST
    return int(text) if text.isdecimal() and len(text) < 4 else _LOST
