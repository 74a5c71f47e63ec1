"""Requests of many clients in common calls, by one thread; of one client at once. No JAX, no sockets."""

import collections
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

import numpy as np

from qgf_jax.errors import UserError, log, raised
from qgf_jax.serving.metrics import Metrics

_QUICK = 0.005
"""Seconds of a call that whoever asks may wait for, and with them those who only connect or ping."""


class _Acts(Protocol):
    """A program: rows [B, W] -> chunks [B, H, A], for B up to `most`."""

    most: int

    def __call__(self, rows: np.ndarray) -> np.ndarray: ...


class FailedError(UserError):
    """The policy gave no action that can be played, whatever the client could have done."""


class _Chunks(NamedTuple):
    """What became of a request."""

    actions: np.ndarray
    """[B, H, A]"""
    wait: float
    """Seconds in the queue."""
    infer: float
    """Seconds of the calls that it was in."""


class _Waiting:
    """A request that is not answered yet, wholly or in part."""

    def __init__(self, program: Any, rows: np.ndarray):
        self.program, self.rows = program, rows
        self.future: Future[_Chunks] = Future()
        self.asked = time.perf_counter()
        self.begun = 0.0
        self.taken = 0
        """Rows that are in a call, or were."""
        self.infer = 0.0
        self.parts: list[np.ndarray] = []

    @property
    def left(self) -> int:
        return len(self.rows) - self.taken


class Batcher:
    """Puts requests for the same program into common calls.

    Requests that come while a call runs are in the next one. Without such, the first waits for others
    up to `wait` seconds, but not longer than until each of `clients` has asked. A single client's call
    is made by whoever submits it, if the last such call was quick, which saves two changes of threads.
    """

    def __init__(self, programs: Mapping[Any, _Acts], wait: float, most: int, metrics: Metrics):
        self._programs, self._wait, self._most, self._metrics = programs, wait, most, metrics
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds: dict[Any, float] = {}
        """Of the last call of each program."""
        self.clients = 0
        """How many are connected; each has one request under way at most."""
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def submit(self, program: Any, rows: np.ndarray) -> "Future[_Chunks]":
        """What will become, or has become, of a request [B, W].

        Raises `UserError` if too many wait already.
        """
        one = _Waiting(program, rows)
        if self._alone(one):
            one.begun, one.taken = one.asked, len(rows)
            self._act([(one, rows)])
            return one.future
        with self._changed:
            if self._closed:
                raise UserError("the server is stopping: ask another one")
            if len(self._queue) >= self._most:
                raise UserError(f"{self._most} requests wait already: send it again later")
            self._queue.append(one)
            self._changed.notify()
        return one.future

    def _alone(self, one: _Waiting) -> bool:
        """Whether nobody else can be in the call of a request, nor wait long for its end."""
        if self.clients != 1 or self._queue or self._closed:
            return False
        quick = self._seconds.get(one.program, _QUICK) < _QUICK
        return quick and len(one.rows) <= self._programs[one.program].most

    def drop(self) -> None:
        """Fails what waits: nobody is there who would read it."""
        with self._changed:
            waiting, self._closed = list(self._queue), True
            self._queue.clear()  # under the same lock: nothing of it is taken any more
        self._fail(waiting, "the server is stopping: ask another one")

    def close(self) -> None:
        """Answers what waits, takes nothing more, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue:
                    if self._closed:
                        return
                    self._changed.wait()
                self._linger()
                taken = self._take()
            self._act(taken)

    def _linger(self) -> None:
        """Waits for others that may share the call of the first."""
        first = self._queue[0]
        until, most = first.asked + self._wait, self._programs[first.program].most
        while not self._closed and len(self._queue) < self.clients:
            alike = sum(one.left for one in self._queue if one.program == first.program)
            left = until - time.perf_counter()
            if alike >= most or left <= 0:
                return
            self._changed.wait(left)

    def _take(self) -> list[tuple[_Waiting, np.ndarray]]:
        """Rows of the first and of those that act as it does, as many as one call holds."""
        program, taken = self._queue[0].program, []
        room = self._programs[program].most
        for one in [one for one in self._queue if one.program == program]:
            rows = one.rows[one.taken : one.taken + room]
            if not one.begun:
                one.begun = time.perf_counter()
            one.taken += len(rows)
            room -= len(rows)
            taken.append((one, rows))
            if not one.left:
                self._queue.remove(one)
            if not room:
                break
        return taken

    def _act(self, taken: list[tuple[_Waiting, np.ndarray]]) -> None:
        """Calls the program. Whatever it raises is the answer, and the thread goes on."""
        rows = np.concatenate([rows for _, rows in taken])
        program = taken[0][0].program
        started = time.perf_counter()
        try:
            chunks = self._programs[program](rows)
        except Exception as error:
            log(f"qgf: warning: a call failed: {raised(error)}")
            self._fail([one for one, _ in taken], "the policy failed: see the server's log")
            return
        self._seconds[program] = seconds = time.perf_counter() - started
        self._metrics.called(len(rows), seconds)
        first = 0
        for one, some in taken:
            one.infer += seconds
            one.parts.append(chunks[first : first + len(some)])
            first += len(some)
            if not one.left:
                _finish(one)

    def _fail(self, some: list[_Waiting], why: str) -> None:
        with self._changed:
            for one in some:
                if one in self._queue:
                    self._queue.remove(one)
        for one in some:
            _answer(one, FailedError(why))


def _finish(one: _Waiting) -> None:
    actions = np.concatenate(one.parts)
    if not np.isfinite(actions).all():
        why = "the policy's actions are not finite for this observation and weight"
        _answer(one, FailedError(why))
    else:
        _answer(one, _Chunks(actions, one.begun - one.asked, one.infer))


def _answer(one: _Waiting, result: _Chunks | FailedError) -> None:
    if not one.future.set_running_or_notify_cancel():
        return  # nobody waits for it any more
    if isinstance(result, FailedError):
        one.future.set_exception(result)
    else:
        one.future.set_result(result)
