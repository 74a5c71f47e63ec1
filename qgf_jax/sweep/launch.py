"""Brings a sweep's jobs to their end on an engine: what is ready, what is tried again, what failed."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from qgf_jax.errors import UserError, log
from qgf_jax.runs.locks import JOB
from qgf_jax.runs.signals import StopRequest
from qgf_jax.sweep import runner
from qgf_jax.sweep.engines import Engine, Task
from qgf_jax.sweep.plan import Plan
from qgf_jax.sweep.state import Record

NOT_RETRIED = (2, 4)
"""Exit codes of what would go wrong again: what the user must mend, and numbers that are not finite."""
_POLL = 0.2  # seconds
_LOOK = 5.0  # seconds between looks at a job that somebody else works on


class UnfinishedError(UserError):
    """Not all jobs are done."""

    code = 6


@dataclasses.dataclass
class _Launch:
    """A sweep at work."""

    plan: Plan
    engine: Engine
    retries: int

    def __post_init__(self) -> None:
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        """Name -> why, in one line."""
        self.hopeless: set[str] = set()
        """What has failed, and what waits for it."""
        self.running: set[str] = set()
        self.tries: dict[str, int] = {}
        self.elsewhere: dict[str, float] = {}
        """What somebody else works on, and when to look again."""
        self.stopping = False
        self._tasks = {name: self._task(name) for name in self.plan.jobs}
        for name in self.plan.jobs:
            if not self._lacks(name):
                self.done.add(name)
            elif holder := self._holder(name):
                self._put_off(name, holder)

    def _task(self, name: str) -> Task:
        words = runner.command(self.plan.folder, name)
        needs = self.plan.jobs[name].job.needs
        return Task(name, words, Path.cwd(), self._workdir(name) / runner.LOG, needs)

    def _workdir(self, name: str) -> Path:
        return self.plan.folder / name

    def _lacks(self, name: str) -> bool:
        lacking = Record.read(self._workdir(name)).lacks(self.plan.jobs[name], self.plan.folder)
        return bool(lacking)

    def _holder(self, name: str) -> str:
        return JOB.holder(self._workdir(name))

    def run(self, stop: StopRequest) -> None:
        """Until all jobs are done or cannot be, or until what runs has ended after a signal."""
        while self.running or not (self.stopping or self._is_over()):
            self._stop_if_asked(stop)
            for task, code in self.engine.ended():
                self._settle(task.name, 128 - code if code < 0 else code)
            if not self.stopping and (ready := self._ready()):
                self.running |= {task.name for task in self.engine.start(ready)}
            time.sleep(_POLL)

    def _stop_if_asked(self, stop: StopRequest) -> None:
        if not self.stopping and (stop.wanted or runner.Cancellation(self.plan.folder).wanted):
            self.stopping = True
            self.engine.stop()

    def _is_over(self) -> bool:
        return self.plan.jobs.keys() <= self.done | self.hopeless

    def _before(self, name: str) -> list[str]:
        """The jobs of the sweep that are done before one begins."""
        return [n for n in self.plan.jobs[name].job.waits_for if n in self.plan.jobs]

    def _ready(self) -> list[Task]:
        self._look_elsewhere()
        left = self.plan.jobs.keys() - self.done - self.running - self.hopeless
        left -= self.elsewhere.keys()
        return [
            task
            for name, task in self._tasks.items()
            if name in left and all(n in self.done for n in self._before(name))
        ]

    def _look_elsewhere(self) -> None:
        """Looks again at what somebody else works on: whether it is done, or left alone by now."""
        now = time.monotonic()
        for name in [name for name, when in self.elsewhere.items() if when <= now]:
            if holder := self._holder(name):
                self._put_off(name, holder)
                continue
            del self.elsewhere[name]
            if not self._lacks(name):
                self._settle(name, 0)

    def _put_off(self, name: str, holder: str) -> None:
        if name not in self.elsewhere:
            log(f"qgf: {name}: {holder or 'another process'} works on it; waiting for it")
        self.elsewhere[name] = time.monotonic() + _LOOK

    def _settle(self, name: str, code: int) -> None:
        """Takes note of how a task has ended."""
        self.running.discard(name)
        if code == 0:
            self.done.add(name)
            log(f"qgf: {name}: done, {len(self.done)} of {len(self.plan.jobs)}")
        elif code == runner.ELSEWHERE:
            self._put_off(name, self._holder(name))
        elif not self.stopping:
            self._settle_failure(name, code)

    def _settle_failure(self, name: str, code: int) -> None:
        line = runner.failure_of(self._workdir(name), code)
        tried = self.tries[name] = self.tries.get(name, 0) + 1
        if code in NOT_RETRIED or tried > self.retries:
            self.failed[name] = line
            self._give_up(name)
            log(f"qgf: {name}: failed: {line}")
        else:
            log(f"qgf: {name}: {line}: trying again, {tried} of {self.retries}")

    def _give_up(self, name: str) -> None:
        """Notes that neither a job nor what waits for it can be done."""
        self.hopeless.add(name)
        for other in self.plan.jobs:
            if other not in self.hopeless and name in self._before(other):
                self._give_up(other)


def launch(plan: Plan, make_engine: Callable[[], Engine], *, retries: int = 3) -> Mapping[str, int]:
    """Runs what the jobs of a plan lack, and returns how many there are and how many ran.

    What is done is skipped, what was broken off goes on. An exit code of `NOT_RETRIED` ends a job;
    any other is tried again, `retries` times. On SIGTERM, SIGINT and a `Cancellation` all that runs is
    asked to save and end, and is waited for. Raises `UnfinishedError` once all that can be done is,
    if that is not all, with a line for each job that failed, and `Stopped` after a signal.
    """
    plan.write()
    runner.Cancellation(plan.folder).withdraw()
    at_work = _Launch(plan, make_engine(), retries)
    before = len(at_work.done)
    if before:
        log(f"qgf: {before} of {len(plan.jobs)} jobs are done already")
    with StopRequest() as stop:
        at_work.run(stop)
        total, done = len(plan.jobs), len(at_work.done)
        if done < total:
            stop.check(f"{done} of {total} jobs are done; the same command goes on")
    _say_failures(at_work)
    if done < total:
        why = "cancelled: " if at_work.stopping else ""
        raise UnfinishedError(
            f"{why}{total - done} of {total} jobs are not done: the same command goes on with them"
        )
    return {"jobs": total, "ran": total - before}


def _say_failures(at_work: _Launch) -> None:
    for name, line in at_work.failed.items():
        log(f"qgf: failed: {name}: {line} ({at_work.plan.folder / name / runner.LOG})")
    waiting = [n for n in at_work.plan.jobs if n not in at_work.done | at_work.failed.keys()]
    if waiting and not at_work.stopping:
        log(f"qgf: not begun, as what they wait for has failed: {', '.join(waiting)}")
