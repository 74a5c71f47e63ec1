"""Waits for a run and for its checkpoints, and reads alone: whoever trains notices nothing. No JAX."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from qgf_jax.errors import log
from qgf_jax.runs.checkpoint import Checkpoints
from qgf_jax.runs.run import Run

_PAUSE = 1.0
"""Seconds between two looks."""


def _pause() -> None:
    """Waits until it is time to look again."""
    time.sleep(_PAUSE)


class Watch:
    """The checkpoints of a run, as they are sealed and removed."""

    def __init__(self, run: Run, wait: Callable[[], None] = _pause):
        self._folder, self._wait = run.trained_in, wait
        self._checkpoints = Checkpoints(run.trained_in, identity=run.identity)
        self._waiting: set[int] = set()
        self._past: set[int] = set()

    @staticmethod
    def wait_for_run(workdir: Path, wait: Callable[[], None] = _pause) -> None:
        """Returns once there is a run in `workdir`; says so if there is none yet."""
        path = workdir / "config.json"
        if not path.exists():
            log(f"qgf: no run in {workdir} yet: waiting until `qgf train` makes one")
        while not path.exists():
            wait()

    def steps(self) -> Iterator[int]:
        """Each step as soon as it is sealed, the oldest first, until the run's last one.

        A step that is removed before its turn has come is left out, with one line. How many steps the
        run has is read from its config again and again, since a resumed run may have more.
        """
        while True:
            self.look()
            if not self._waiting:
                self._wait_for_more()
            step = min(self._waiting)
            self._waiting.remove(step)
            self._past.add(step)
            yield step
            if step >= self.last:
                return

    def look(self) -> None:
        """Notes which steps are sealed now; the more often, the fewer come and go unseen."""
        sealed = {*self._checkpoints.steps()}
        for step in sorted(self._waiting - sealed):
            log(f"qgf: warning: checkpoint {step} was removed before it could be evaluated")
        self._past |= self._waiting - sealed
        self._waiting = sealed - self._past

    @property
    def last(self) -> int:
        """The step with which training ends."""
        return Run.open(self._folder).config["train"]["steps"]

    def why_invalid(self, step: int) -> str:
        """What is wrong with a step, in one line; "" if it is sound."""
        return self._checkpoints.why_invalid(step)

    def _wait_for_more(self) -> None:
        before = f" after step {max(self._past)}" if self._past else ""
        log(f"qgf: waiting for a checkpoint of {self._folder}{before}, up to step {self.last}")
        while not self._waiting:
            self._wait()
            self.look()
