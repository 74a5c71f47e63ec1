"""Plays chunks of actions in a control loop, as `methods.pace` has them. No JAX.

    player = ChunkPlayer(lambda obs, previous: ask(obs, previous), execute=5, delay=2)
    while running:
        robot.apply(player.act(robot.observe()))

Where a chunk is computed elsewhere the loop need not wait for it: with `delay` it is asked for in a
thread, and the chunk before is played meanwhile.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from qgf_jax.errors import UserError
from qgf_jax.methods.pace import Pace

Infer = Callable[[Any, np.ndarray | None], Any]
"""(observation, the chunk before [H, A] or None) -> chunk [H, A] from the observation on."""


class ChunkPlayer:
    """One action a call of `act`, out of chunks that `infer` gives.

    A chunk is asked for with the observation at its first action; the next one `execute` actions later
    (0: when this one is over), and it comes `delay` actions after that. Without both, chunks are played
    open loop. `infer` gets the chunk that is being played, for real-time chunking; a policy whose method
    has no such option leaves it out. The first chunk of an episode is waited for. Its calls follow one
    another: never two at once.
    """

    def __init__(self, infer: Infer, *, execute: int = 0, delay: int = 0):
        if type(execute) is not int or type(delay) is not int or min(execute, delay) < 0:
            raise UserError(
                f"execute={execute} and delay={delay}: give whole numbers of at least 0"
            )
        self._infer, self._given = infer, {"execute": execute, "delay": delay}
        self._thread = ThreadPoolExecutor(1, "chunk")
        self._pace: Pace | None = None
        self._chunk = np.zeros((0, 0), np.float32)
        self._place = 0
        self._asked: Future[Any] | None = None

    def __enter__(self) -> "ChunkPlayer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def act(self, observation: Any) -> np.ndarray:
        """The next action [A]. Waits where a chunk is late, and raises what `infer` raised.

        Raises `UserError` for a chunk of another shape, or one that is too short for the pace.
        """
        pace = self._pace
        if pace is None:
            pace = self._begin(self._thread.submit(self._infer, observation, None).result())
        if self._asked and self._place == pace.execute + pace.delay:
            self._take(pace)
        if not self._asked and self._place == pace.execute:
            self._asked = self._thread.submit(self._infer, observation, self._chunk)
            if not pace.delay:
                self._take(pace)
        action = self._chunk[self._place]
        self._place += 1
        return action

    def reset(self) -> None:
        """Begins an episode: nothing of the one before is played, nor given to `infer`."""
        if self._asked and not self._asked.cancel():
            self._asked.exception()  # it is waited for, so that no two calls are under way
        self._pace, self._asked = None, None

    def close(self) -> None:
        """Ends the thread, after the call that is under way."""
        self._thread.shutdown(cancel_futures=True)

    def _begin(self, chunk: Any) -> Pace:
        self._chunk, self._place = _checked(chunk, None), 0
        self._pace = Pace.of(self._given, len(self._chunk))
        self._pace.check_in_time()
        return self._pace

    def _take(self, pace: Pace) -> None:
        """Goes on with the chunk that was asked for, behind the actions that were played meanwhile."""
        asked, self._asked = self._asked, None
        chunk = _checked(asked.result() if asked else None, self._chunk.shape)
        self._chunk, self._place = pace.followed(self._chunk, chunk, np), pace.delay


def _checked(chunk: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    array = np.array(chunk, np.float32)
    if array.ndim != 2 or (shape is not None and array.shape != shape):
        raise UserError(f"chunk of shape {array.shape}: give {shape or '[H, A]'}")
    return array
