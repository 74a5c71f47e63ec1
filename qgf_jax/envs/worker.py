"""A process that owns some environments and steps them, whole chunks at a time.

Run as `python -m qgf_jax.envs.worker FD NAME SLOTS PARTS`, where PARTS is `EnvName.parts` as JSON;
speaks `wire.Message` over the socket FD. A fresh interpreter, not a fork: its parent runs JAX, whose
threads do not survive forking.
"""

import contextlib
import json
import os
import queue
import random
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random.mtrand import set_bit_generator  # stubs before NumPy 2.5 have it here alone

from qgf_jax.envs import spaces
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.envs.spaces import Widths
from qgf_jax.envs.wire import Message
from qgf_jax.errors import UserError, raised


class _Slot:
    """One environment, with its own copy of the global generators, from which some tasks draw."""

    def __init__(self, name: str, parts: Widths, made: Callable[[Any], None]):
        family = Family.of(name)
        self.env = family.make(EnvName.parse(name).seen_as(parts))
        self._unsaid = {"success": 0.0} if family.says_success else {}
        self.bits = np.random.MT19937()
        # The first reset may compile a model, which must not look like stepping.
        self.obs_width = len(self.reset(0))
        made(self.env)

    def goal_position(self) -> list[float] | None:
        """The goal [x, y] of this episode, where the environment has such."""
        said = getattr(self.env, "goal_position", None)
        return said() if said else None

    def reset(self, seed: int) -> np.ndarray:
        """First observation of the episode `seed`."""
        set_bit_generator(self.bits)
        obs = self.env.reset(seed)
        # 10 microseconds each time, so only for those that may draw from it.
        self._drawn = random.getstate() if getattr(self.env, "draws_globally", False) else None
        return obs

    def act(self, chunk: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Plays the actions [H, A] open loop, to the end of the episode at most."""
        set_bit_generator(self.bits)
        if self._drawn is not None:
            random.setstate(self._drawn)
        total, steps, done, info, obs = 0.0, 0, False, {}, np.zeros(0)
        for action in chunk:
            obs, reward, done, info = self.env.step(action)
            total, steps = total + reward, steps + 1
            if done:
                break
        if self._drawn is not None:
            self._drawn = random.getstate()
        played = {"reward": total, "steps": steps, "done": done, **self._unsaid}
        if "success" in info:
            played["success"] = float(info["success"])
        return obs, played


def _listen(channel: socket.socket, requests: queue.SimpleQueue[Message | None]) -> None:
    """Takes requests off the channel as they come, and None when it closes.

    So the other side can always send the next one, however long it is: it must not wait for a worker
    that plays, and then waits itself for its answer to be read.
    """
    try:
        while True:
            requests.put(Message.receive(channel))
    except (EOFError, OSError):
        requests.put(None)


def _serve(channel: socket.socket, name: str, count: int, parts: Widths = ()) -> None:
    """Answers requests one after the other until the channel closes."""
    try:
        slots = _begin(name, count, parts)
    except UserError as error:
        Message({"refused": str(error)}).send(channel)
        return
    greeting = {"action_dim": slots[0].env.action_dim, "obs_width": slots[0].obs_width}
    Message(greeting).send(channel)
    requests: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, requests), daemon=True).start()
    while (request := requests.get()) is not None:
        obs: list[np.ndarray] = []
        try:
            reply = _answer(slots, request, obs)
        except Exception as error:
            Message({"error": raised(error, 120), "place": len(obs)}).send(channel)
        else:
            Message(reply, {"obs": np.asarray(obs, np.float32)}).send(channel)
    for slot in slots:  # may have started a simulator in a process of its own
        with contextlib.suppress(Exception):
            getattr(slot.env, "close", bool)()


def _begin(name: str, count: int, parts: Widths) -> list[_Slot]:
    """The environments. Raises `UserError` if there can be none."""
    try:
        family = Family.of(name)
        family.require()
        with family.headless() as made:
            return [_Slot(name, parts, made) for _ in range(count)]
    except UserError:
        raise
    except Exception as error:  # whatever the simulator, or a user's environment, raises
        raise UserError(f"environment {name} does not begin ({raised(error, 120)})") from error


def _answer(slots: list[_Slot], request: Message, obs: list[np.ndarray]) -> dict[str, Any]:
    """Does what is asked. Observations go into `obs`, so that it is seen whose turn failed."""
    header, arrays = request
    started = time.process_time()
    reply: dict[str, Any]
    if header["op"] == "reset":
        for i, seed in zip(*header["slots"], strict=True):
            obs.append(slots[i].reset(seed))
        reply = {"goal": slots[0].goal_position()}
    else:
        reply = {"played": []}
        for i, chunk in zip(header["slots"], arrays["actions"], strict=True):
            after, played = slots[i].act(chunk)
            obs.append(after)
            reply["played"].append(played)
    return {**reply, "cpu_seconds": time.process_time() - started}


def leave_with(parent: int) -> None:
    """Ends the process when its parent is gone, whatever the simulator is busy with."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _main() -> None:
    """Entry point of the process."""
    warnings.filterwarnings("ignore", module="gymnasium")
    os.dup2(2, 1)  # whatever the simulator prints must not look like our output
    threading.Thread(target=leave_with, args=(os.getppid(),), daemon=True).start()
    channel = socket.socket(fileno=int(sys.argv[1]))
    # The parent is gone or closing: that is how this ends.
    with contextlib.suppress(ConnectionError, KeyboardInterrupt):
        _serve(channel, sys.argv[2], int(sys.argv[3]), spaces.named(json.loads(sys.argv[4])))


if __name__ == "__main__":
    _main()
