"""The one loop of an evaluation, whatever simulates."""

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Sequence

from tqdm import tqdm

from qgf_jax.evaluation.arms import Sampler
from qgf_jax.evaluation.simulators import Result, Simulator, Usage
from qgf_jax.evaluation.sweep import Job


def rollout(
    simulator: Simulator, jobs: Sequence[Job], record: Callable[[Job, Result], None]
) -> None:
    """Plays `jobs`, sampler by sampler, and gives each result to `record`.

    What differs in weight alone shares a batch. Adds to `simulator.usage`.
    """
    for part in simulator.parts(jobs):
        with (
            simulator.ready_for(part),
            _timed(simulator.usage),
            tqdm(total=len(part), unit="episode", disable=None, file=sys.stderr) as bar,
        ):
            for sampler, group in _by_sampler(part).items():
                bar.set_description(sampler.label)
                for job, result in simulator.play(sampler, group):
                    simulator.usage.episodes += 1
                    simulator.usage.env_steps += result["length"]
                    record(job, result)
                    bar.update()


def _by_sampler(jobs: Sequence[Job]) -> dict[Sampler, list[Job]]:
    groups: dict[Sampler, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.acts_as.sampler, []).append(job)
    return groups


@contextlib.contextmanager
def _timed(usage: Usage) -> Generator[None]:
    """Adds the time of the block, and this process's share of the processor, to `usage`."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    usage.wall_seconds += time.perf_counter() - wall
    usage.cpu_seconds += time.process_time() - cpu
