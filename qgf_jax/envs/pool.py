"""Many environments in worker processes, stepped a chunk at a time. No JAX."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.envs import wire
from qgf_jax.errors import UserError


class Played(NamedTuple):
    """What one chunk did in one environment."""

    reward: float
    """Sum over the steps taken."""
    steps: int
    """Fewer than the chunk's if the episode ended in it."""
    done: bool
    success: float


class EnvPool:
    """`slots` environments of one name over `workers` processes; a context manager.

    Environment i lives in process i % workers. What an episode does depends on its seed and its
    actions alone: not on the slot, the process, or what was played before.
    """

    def __init__(self, name: str, slots: int, workers: int | None = None):
        count = max(1, min(slots, workers or os.cpu_count() or 1))
        self.name, self.slots = name, slots
        self.goal: list[float] | None = None
        self.cpu_seconds = 0.0
        """Of the workers, while answering: simulator and all."""
        self._processes: list[subprocess.Popen] = []
        self._channels: list[socket.socket] = []
        try:
            for worker in range(count):
                self._start(len(range(worker, slots, count)))
            answers = [self._receive(worker) for worker in range(count)]
        except BaseException:
            self.close()
            raise
        self.action_dim: int = answers[0][0]["action_dim"]

    def _start(self, count: int) -> None:
        ours, theirs = socket.socketpair()
        environment = {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "disable"} | os.environ
        command = [sys.executable, "-m", "qgf_jax.envs.worker"]
        command += [str(theirs.fileno()), self.name, str(count)]
        with theirs:
            process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(),), env=environment, stdin=subprocess.DEVNULL
            )
        self._processes.append(process)
        self._channels.append(ours)

    def reset(self, slots: Sequence[int], seeds: Sequence[int]) -> np.ndarray:
        """First observations [n, O] of the episodes `seeds`, in the environments `slots`."""
        seed_of = dict(zip(slots, seeds, strict=True))
        for worker, mine in self._by_worker(slots):
            places = [self._place(slot) for slot in mine]
            self._send(worker, {"op": "reset", "slots": [places, [seed_of[s] for s in mine]]})
        return self._collect(slots)[0]

    def step(self, slots: Sequence[int], chunks: np.ndarray) -> tuple[np.ndarray, list[Played]]:
        """Plays `chunks` [n, H, A] open loop: observations [n, O] after them, and what they did."""
        chunk_of = dict(zip(slots, chunks, strict=True))
        for worker, mine in self._by_worker(slots):
            actions = np.stack([chunk_of[slot] for slot in mine]).astype(np.float32)
            places = [self._place(slot) for slot in mine]
            self._send(worker, {"op": "step", "slots": places}, actions=actions)
        return self._collect(slots)

    def _by_worker(self, slots: Sequence[int]) -> list[tuple[int, list[int]]]:
        count = len(self._channels)
        groups = ((w, [s for s in slots if s % count == w]) for w in range(count))
        return [(worker, mine) for worker, mine in groups if mine]

    def _place(self, slot: int) -> int:
        return slot // len(self._channels)

    def _collect(self, slots: Sequence[int]) -> tuple[np.ndarray, list[Played]]:
        obs: dict[int, np.ndarray] = {}
        played: dict[int, Played] = {}
        for worker, mine in self._by_worker(slots):
            header, arrays = self._receive(worker)
            self.cpu_seconds += header["cpu_seconds"]
            self.goal = header.get("goal", self.goal)
            obs |= dict(zip(mine, arrays["obs"], strict=True))
            results = [Played(**result) for result in header.get("played", ())]
            played |= dict(zip(mine, results, strict=False))
        return np.stack([obs[s] for s in slots]), [played[s] for s in slots if s in played]

    def _send(self, worker: int, header: dict[str, Any], **arrays: np.ndarray) -> None:
        try:
            wire.send(self._channels[worker], header, **arrays)
        except OSError:
            raise self._died(worker) from None

    def _receive(self, worker: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        try:
            return wire.receive(self._channels[worker])
        except (EOFError, OSError):
            raise self._died(worker) from None

    def _died(self, worker: int) -> UserError:
        code = self._processes[worker].wait(timeout=5)
        return UserError(
            f"environment worker {worker} of {self.name} died with exit code {code}: "
            "what it wrote is above; run the command again to go on"
        )

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
