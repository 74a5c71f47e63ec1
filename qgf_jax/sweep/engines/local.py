"""Processes of this machine, as many at once as its cores, memory and accelerators allow."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from qgf_guide.bounds import Index, NonNegative
from qgf_jax.errors import log_once
from qgf_jax.runtime import children
from qgf_jax.runtime.memory import available_bytes
from qgf_jax.sweep.engines import ENGINES, Engine, Task
from qgf_jax.sweep.job import Needs


@ENGINES.declare
def _local(
    *,
    cores: Annotated[
        Index, "CPU cores for all jobs together; 0: all that this process may use"
    ] = 0,
    memory_gib: Annotated[NonNegative, "GiB for all jobs together; 0: what is free now"] = 0.0,
    devices: Annotated[str, "accelerators as CUDA_VISIBLE_DEVICES has them, or none"] = "",
) -> Engine:
    """Processes of this machine."""
    names = [] if devices == "none" else devices.split(",") if devices else _accelerators()
    total = _Budget(
        cores or len(os.sched_getaffinity(0)),
        memory_gib or available_bytes() / 2**30,
        len(names),
    )
    return _Processes(total, names)


class _Budget(NamedTuple):
    cores: int
    memory_gib: float
    devices: int

    def of(self, task: Task) -> "_Budget":
        """What a task takes; all that there is where it needs more."""
        needs, most = task.needs, self
        taken = _Budget(
            min(needs.cores, most.cores),
            min(needs.memory_gib, most.memory_gib),
            min(needs.devices, most.devices),
        )
        if most.devices and needs.devices > most.devices:
            _warn(task, needs, most)
        return taken

    def without(self, other: "_Budget") -> "_Budget":
        """What is left."""
        return _Budget(*(a - b for a, b in zip(self, other, strict=True)))

    @property
    def suffices(self) -> bool:
        """Whether nothing is overdrawn; sums of memory are rounded."""
        return self.cores >= 0 and self.devices >= 0 and self.memory_gib > -1e-6


def _warn(task: Task, needs: Needs, most: _Budget) -> None:
    log_once(
        f"qgf: warning: {task.name} needs {needs.devices} devices and gets the {most.devices} here"
    )


class _Running(NamedTuple):
    task: Task
    process: subprocess.Popen
    taken: _Budget
    devices: list[str]


class _Processes:
    """An engine."""

    def __init__(self, total: _Budget, devices: Sequence[str]):
        self._total, self._devices = total, devices
        self._running: list[_Running] = []

    def start(self, tasks: Sequence[Task]) -> list[Task]:
        """Those that fit, in order; what does not fit keeps its share free, so that it is not passed."""
        free, started = self._total, []
        for one in self._running:
            free = free.without(one.taken)
        for task in tasks:
            taken = self._total.of(task)
            free = free.without(taken)
            if free.suffices:
                self._begin(task, taken)
                started.append(task)
            elif free.cores <= 0:
                break
        return started

    def _begin(self, task: Task, taken: _Budget) -> None:
        used = {name for one in self._running for name in one.devices}
        own = [name for name in self._devices if name not in used][: taken.devices]
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {})
        process = children.start_logged(task.command, task.log, cwd=task.cwd, env=environment)
        self._running.append(_Running(task, process, taken, own))

    def ended(self) -> list[tuple[Task, int]]:
        """Those that have; their devices are free again."""
        over = [one for one in self._running if one.process.poll() is not None]
        self._running = [one for one in self._running if one.process.returncode is None]
        return [(one.task, one.process.returncode) for one in over]

    def stop(self) -> None:
        """Asks all that run to save and end."""
        for one in self._running:
            one.process.terminate()


def _accelerators() -> list[str]:
    """What CUDA_VISIBLE_DEVICES allows; where it says nothing, the NVIDIA cards that there are."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    numbers = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
    return sorted((found[1] for found in numbers if found), key=int)
