"""What plays episodes: the interface that a simulator has to the rollout, and what playing cost."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from qgf_jax.evaluation.arms import Sampler
from qgf_jax.evaluation.sweep import Job

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


class Simulator(Protocol):
    """Plays episodes of one loaded run in one environment."""

    usage: Usage
    """Of all that was played. The simulator counts its own time, the rollout everything else."""

    def parts(self, jobs: Sequence[Job]) -> Iterable[Sequence[Job]]:
        """The jobs by what can be played at once: those of one task, or all."""
        ...

    def ready_for(self, jobs: Sequence[Job]) -> AbstractContextManager[None]:
        """Starts the environments of one part and compiles its samplers; they stay for the block."""
        ...

    def play(self, sampler: Sampler, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Plays jobs of the part that share a sampler, each yielded when its episode is over."""
        ...
