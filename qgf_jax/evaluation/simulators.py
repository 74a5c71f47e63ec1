"""What plays episodes: the one loop, whatever simulates, and what playing cost."""

import abc
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from tqdm import tqdm

from qgf_jax.evaluation.arms import Program
from qgf_jax.evaluation.compiled import Compiled
from qgf_jax.evaluation.sweep import Job
from qgf_jax.runs.loaded import LoadedRun

Result = dict[str, Any]
"""What became of an episode, as its line says it: return, length, success …"""

PATHS = 10
"""Episodes of each split whose way through a maze is kept."""


@dataclasses.dataclass
class Usage:
    """What playing cost, compilation and the start of workers left out; counted up as it goes on."""

    episodes: int = 0
    env_steps: int = 0
    cpu_seconds: float = 0.0
    """Of this process and of the workers."""
    simulator_cpu_seconds: float = 0.0
    """Of the workers alone."""
    wall_seconds: float = 0.0
    waited_for_simulator: float = 0.0
    """Seconds of these in which there was nothing to do until a worker answered; on the device, 0."""
    waited_for_policy: float = 0.0
    """Seconds of these until there were actions; on the device, 0."""


class Simulator(abc.ABC):
    """Plays episodes of one loaded run in one environment; `rollout` is the one loop."""

    def __init__(self, loaded: LoadedRun) -> None:
        self.usage = Usage()
        """Of all that was played. A simulator counts its own time, `rollout` everything else."""
        self._loaded = loaded
        self._programs: dict[Any, Compiled] = {}

    def go_on_with(self, loaded: LoadedRun) -> None:
        """Plays with another checkpoint of the same run from now on; what was compiled stays."""
        self._loaded = loaded
        self._programs = {key: one for key, one in self._programs.items() if one.take(loaded)}

    def close(self) -> None:
        """Ends what was kept between two calls of `rollout`."""
        self._programs.clear()

    @abc.abstractmethod
    def parts(self, jobs: Sequence[Job]) -> Iterable[Sequence[Job]]:
        """The jobs by what can be played at once: those of one task, or all."""

    @abc.abstractmethod
    def ready_for(self, jobs: Sequence[Job]) -> AbstractContextManager[None]:
        """Starts the environments of one part and compiles its programs; they stay for the block."""

    @abc.abstractmethod
    def play(self, program: Program, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Plays jobs of the part that share a program, each yielded when its episode is over."""

    def rollout(self, jobs: Sequence[Job], record: Callable[[Job, Result], None]) -> None:
        """Plays `jobs`, program by program, and gives each result to `record`.

        What differs in weight and in an option's number alone shares a batch. Adds to `usage`.
        """
        for part in self.parts(jobs):
            with (
                self.ready_for(part),
                _timed(self.usage),
                tqdm(total=len(part), unit="episode", disable=None, file=sys.stderr) as bar,
            ):
                for program, group in _by_program(part).items():
                    bar.set_description(program.label)
                    for job, result in self.play(program, group):
                        self.usage.episodes += 1
                        self.usage.env_steps += result["length"]
                        record(job, result)
                        bar.update()


def _by_program(jobs: Sequence[Job]) -> dict[Program, list[Job]]:
    groups: dict[Program, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.acts_as.program, []).append(job)
    return groups


@contextlib.contextmanager
def _timed(usage: Usage) -> Generator[None]:
    """Adds the time of the block, and this process's share of the processor, to `usage`."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    usage.wall_seconds += time.perf_counter() - wall
    usage.cpu_seconds += time.process_time() - cpu
