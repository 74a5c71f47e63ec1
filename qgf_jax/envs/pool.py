"""Many environments in worker processes, stepped a chunk at a time. No JAX."""

import collections
import contextlib
import json
import math
import os
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.envs.families import Family
from qgf_jax.envs.spaces import Widths
from qgf_jax.envs.wire import Message
from qgf_jax.errors import UserError, log
from qgf_jax.runtime import children


class Played(NamedTuple):
    """What one chunk did in one environment."""

    reward: float
    """Sum over the steps taken."""
    steps: int
    """Fewer than the chunk's if the episode ended in it."""
    done: bool
    success: float | None = None
    """From 0 to 1; `None` where the environment says none."""
    failed: str = ""
    """Why the simulator could not play the episode, even when it was played again."""


class _Broken(Exception):  # noqa: N818 - never leaves this file
    """A worker, or what it said, is of no use. `slot` is whose fault it is, if that is known."""

    def __init__(self, cause: str, slot: int | None = None):
        super().__init__(cause)
        self.slot = slot


class _Episode(NamedTuple):
    """All that an episode is made of, so that it can be played again."""

    seed: int
    chunks: list[np.ndarray]


_Answer = tuple[np.ndarray, Played | None]


class Move:
    """Something that episodes were asked to do, and what has been heard of it."""

    def __init__(self, slots: Sequence[int], waiting: dict[int, list[int]]):
        self.slots = slots
        self.waiting = waiting
        """Slots by the worker that has yet to answer for them."""
        self.answers: dict[int, _Answer] = {}


class EnvPool:
    """`slots` environments of one name over `workers` processes; a context manager.

    `parts` are those of `EnvName`.

    Environment i lives in process i % workers. What an episode does depends on its seed and its
    actions alone: not on the slot, the process, or what was played before. So a worker that dies, is
    silent for `timeout` seconds or says what is no observation is replaced, and its episodes are played
    again up to where they were. An episode that fails twice is over, and `Played.failed` says why.

    `ask_reset` and `ask_step` do not wait, so that some environments play while others are decided
    for; `answer` does, and takes the oldest first. An environment plays one move at a time.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        workers: int | None = None,
        *,
        parts: Widths = (),
        timeout: float = 60.0,
        start_timeout: float = 300.0,
        module: str = "qgf_jax.envs.worker",
    ):
        count = max(1, min(slots, workers or os.cpu_count() or 1))
        self.name, self.slots, self.workers, self.module = name, slots, count, module
        self._parts = json.dumps(parts)
        self.timeout, self.start_timeout = timeout, start_timeout
        self.goal: list[float] | None = None
        self.cpu_seconds = 0.0
        """Of the workers, while answering: simulator and all."""
        self._processes: list[subprocess.Popen] = []
        self._channels: list[socket.socket] = []
        self._episodes: dict[int, _Episode] = {}
        self._faults: dict[int, int] = {}
        self._failed: dict[int, str] = {}
        self._asked: collections.deque[Move] = collections.deque()
        self._lost: dict[int, _Broken] = {}
        """Workers to which nothing can be sent, until they are replaced."""
        try:
            for worker in range(count):
                self._launch(worker, count)
            answers = [self._greeting(worker) for worker in range(count)]
        except BaseException:
            self.close()
            raise
        self.action_dim: int = answers[0]["action_dim"]
        self.obs_width: int = answers[0]["obs_width"]
        self._obs_shape = (self.obs_width,)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> np.ndarray:
        """First observations [n, O] of the episodes `seeds`, in the environments `slots`."""
        return self.answer(self.ask_reset(slots, seeds))[0]

    def step(self, slots: Sequence[int], chunks: np.ndarray) -> tuple[np.ndarray, list[Played]]:
        """Plays `chunks` [n, H, A] open loop: observations [n, O] after them, and what they did."""
        return self.answer(self.ask_step(slots, chunks))

    def ask_reset(self, slots: Sequence[int], seeds: Sequence[int]) -> Move:
        """Begins the episodes `seeds` in the environments `slots`."""
        for slot, seed in zip(slots, seeds, strict=True):
            self._episodes[slot] = _Episode(seed, [])
            self._faults[slot] = 0
            self._failed.pop(slot, None)
        return self._ask(slots, 0)

    def ask_step(self, slots: Sequence[int], chunks: np.ndarray) -> Move:
        """Plays `chunks` [n, H, A] open loop in the environments `slots`."""
        for slot, chunk in zip(slots, chunks, strict=True):
            self._episodes[slot].chunks.append(np.array(chunk, np.float32))
        return self._ask(slots, -1)

    def answer(self, move: Move) -> tuple[np.ndarray, list[Played]]:
        """Observations [n, O] after the oldest move that is not answered, and what it did."""
        if not self._asked or self._asked[0] is not move:
            raise ValueError("moves are answered in the order in which they were asked for")
        for worker, cause in self._wait_for(move).items():
            self._replace(worker, cause)
        self._asked.popleft()
        for slot in self._failed.keys() & move.slots:
            move.answers[slot] = self._failure(slot)
        played = [move.answers[slot][1] or Played(0.0, 0, False) for slot in move.slots]
        over = [slot for slot, result in zip(move.slots, played, strict=True) if result.done]
        self._forget(over)
        return np.stack([move.answers[slot][0] for slot in move.slots]), played

    def _forget(self, over: Iterable[int]) -> None:
        """Drops episodes that are over. Of one without a step, a step will say that it failed."""
        for slot in over:
            if self._episodes[slot].chunks:
                del self._episodes[slot]

    def _failure(self, slot: int) -> tuple[np.ndarray, Played]:
        """The answer of an environment that failed."""
        success = 0.0 if Family.of(self.name).says_success else None
        nothing = np.zeros(self._obs_shape, np.float32)
        return nothing, Played(0.0, 0, True, success, self._failed[slot])

    def _wait_for(self, move: Move) -> dict[int, _Broken]:
        """Takes the answers of all workers that a move waits for. Returns those that have none."""
        broken: dict[int, _Broken] = {}
        for worker, slots in list(move.waiting.items()):
            try:
                if worker in self._lost:
                    raise self._lost[worker]
                move.answers |= self._receive(worker, slots)
                del move.waiting[worker]
            except _Broken as cause:
                broken[worker] = cause
        return broken

    def _ask(self, slots: Sequence[int], number: int) -> Move:
        """Asks all workers for a move of each of the episodes in `slots`; see `_send`."""
        count = len(self._channels)
        mine = {
            w: [s for s in slots if s % count == w and s not in self._failed] for w in range(count)
        }
        move = Move(slots, {worker: some for worker, some in mine.items() if some})
        for worker, some in move.waiting.items():
            try:
                if worker not in self._lost:
                    self._send(worker, some, number)
            except _Broken as cause:
                self._lost[worker] = cause
        self._asked.append(move)
        return move

    def _replace(self, worker: int, cause: _Broken) -> None:
        """Starts a process in the place of a broken one and plays its episodes up to where they were.

        Answers all moves that waited for the broken one.
        """
        answers: dict[int, _Answer] = {}
        again: _Broken | None = cause
        while again:
            log(
                f"qgf: warning: environment worker {worker} of {self.name} {again}: replaced, "
                "its episodes are played again"
            )
            self._count_fault(again)
            self._launch(worker, len(self._channels))
            self._greeting(worker)
            answers, again = self._play_again(worker)
        self._lost.pop(worker, None)
        for move in self._asked:
            slots = move.waiting.pop(worker, ())
            move.answers |= {slot: answers[slot] for slot in slots if slot in answers}

    def _count_fault(self, cause: _Broken) -> None:
        """An episode that breaks a worker twice has failed."""
        if cause.slot is None:
            return
        self._faults[cause.slot] += 1
        if self._faults[cause.slot] > 1:
            self._failed[cause.slot] = str(cause)

    def _play_again(self, worker: int) -> tuple[dict[int, _Answer], _Broken | None]:
        """The last answers of a worker's episodes, and why it broke again, if it did.

        They are played one by one, so that it is seen whose fault it was; only that counts.
        """
        answers: dict[int, _Answer] = {}
        slots = range(worker, self.slots, len(self._channels))
        for slot in [s for s in slots if s in self._episodes and s not in self._failed]:
            try:
                answers[slot] = self._again(worker, slot)
            except _Broken as cause:
                cause.slot = slot
                return answers, cause
            self._faults[slot] = 0
        return answers, None

    def _again(self, worker: int, slot: int) -> _Answer:
        """An episode from its first move to its last."""
        for number in range(len(self._episodes[slot].chunks) + 1):
            self._send(worker, [slot], number)
            answer = self._receive(worker, [slot])[slot]
        return answer

    def _send(self, worker: int, slots: list[int], number: int) -> None:
        """Asks for a move of each of `slots`: 0 is the reset, n the n-th chunk, -1 the last one."""
        places = [slot // len(self._channels) for slot in slots]
        episodes = [self._episodes[slot] for slot in slots]
        try:
            if number:
                actions = np.stack([episode.chunks[number - (number > 0)] for episode in episodes])
                header = {"op": "step", "slots": places}
                request = Message(header, {"actions": actions})
            else:
                seeds = [episode.seed for episode in episodes]
                request = Message({"op": "reset", "slots": [places, seeds]})
            request.send(self._channels[worker])
        except OSError as error:
            raise self._death(worker, error) from None

    def _receive(self, worker: int, slots: list[int]) -> dict[int, _Answer]:
        try:
            answer = Message.receive(self._channels[worker])
        except (EOFError, OSError) as error:
            raise self._death(worker, error) from None
        except (ValueError, KeyError, TypeError) as error:
            raise _Broken(f"spoke nonsense ({error})") from None
        try:
            return self._understand(slots, *answer)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise _Broken(f"spoke nonsense ({error})") from None

    def _understand(
        self, slots: list[int], header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> dict[int, _Answer]:
        if "error" in header:
            raise _Broken(f"raised {header['error']}", slots[header["place"]])
        self.cpu_seconds += header["cpu_seconds"]
        self.goal = header.get("goal", self.goal)
        results = [Played(**result) for result in header.get("played", ())] or [None] * len(slots)
        answers: dict[int, _Answer] = {}
        all_finite = bool(np.isfinite(arrays["obs"]).all())
        for slot, obs, played in zip(slots, arrays["obs"], results, strict=True):
            if obs.shape != self._obs_shape:
                raise _Broken(f"gave observations of shape {obs.shape}", slot)
            finite = all_finite or np.isfinite(obs).all()
            if not (finite and (played is None or math.isfinite(played.reward))):
                raise _Broken("gave an observation or reward that is not finite", slot)
            answers[slot] = (obs, played)
        return answers

    def _launch(self, worker: int, count: int) -> None:
        """Starts a process, in the place of the one before if there was one."""
        if worker < len(self._processes):
            self._channels[worker].close()
            self._processes[worker].kill()  # a stopped one too
            self._processes[worker].wait()
        ours, theirs = socket.socketpair()
        ours.settimeout(self.timeout)
        environment = {"OMP_NUM_THREADS": "1"} | os.environ
        places = len(range(worker, self.slots, count))
        words = (str(theirs.fileno()), self.name, str(places), self._parts)
        command = children.command(self.module, *words)
        with theirs:
            process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), env=environment, stdin=subprocess.DEVNULL
            )
        self._processes[worker:] = [process, *self._processes[worker + 1 :]]
        self._channels[worker:] = [ours, *self._channels[worker + 1 :]]

    def _greeting(self, worker: int, tries: int = 3) -> Mapping[str, Any]:
        """What a new worker says when its environments are ready; that may take a while.

        One that is killed before is started again; one that leaves by itself would do so again, and
        what the user can mend there is an error here.
        """
        self._channels[worker].settimeout(self.start_timeout)
        try:
            header = Message.receive(self._channels[worker]).header
        except (EOFError, OSError, ValueError, KeyError, TypeError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[worker].wait(
                    timeout=0.0 if isinstance(error, TimeoutError) else 5.0
                )
            code = self._processes[worker].poll()
            if tries > 1 and (code is None or code < 0):
                self._launch(worker, len(self._channels))
                return self._greeting(worker, tries - 1)
            raise UserError(
                f"environment worker {worker} of {self.name} could not start, exit code {code}: "
                "what it wrote is above"
            ) from None
        if "refused" in header:
            raise UserError(header["refused"])
        self._channels[worker].settimeout(self.timeout)
        return header

    def _death(self, worker: int, error: Exception) -> _Broken:
        if isinstance(error, TimeoutError):
            return _Broken(f"was silent for {self.timeout:g} s")
        with contextlib.suppress(subprocess.TimeoutExpired):
            return _Broken(f"died with exit code {self._processes[worker].wait(timeout=1)}")
        return _Broken("closed its channel")

    def close(self) -> None:
        """Ends the workers; at most two seconds."""
        for channel in self._channels:
            channel.close()
        for process in self._processes:
            try:
                process.wait(timeout=2.0 / len(self._processes))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> "EnvPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
