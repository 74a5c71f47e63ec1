"""Processes of this machine, as many at once as its cores, memory and accelerators allow."""

import math
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from qgf_guide.bounds import Index, NonNegative
from qgf_jax.errors import log_once
from qgf_jax.runtime import children
from qgf_jax.runtime.memory import available_bytes
from qgf_jax.sweep.engines import ENGINES, Engine, Task


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
    total = _Room(
        cores or len(os.sched_getaffinity(0)),
        memory_gib or available_bytes() / 2**30,
        (1.0,) * len(names),
    )
    return _Processes(total, names)


class _Share(NamedTuple):
    """What a task takes of this machine."""

    cores: int
    memory_gib: float
    devices: Mapping[int, float]
    """The part of each, by its place."""


class _Room(NamedTuple):
    """What is free of this machine; less than nothing where a task waits for it."""

    cores: int
    memory_gib: float
    devices: tuple[float, ...]
    """The part of each."""

    def without(self, share: _Share) -> "_Room":
        """What is left."""
        devices = (part - share.devices.get(i, 0) for i, part in enumerate(self.devices))
        return _Room(self.cores - share.cores, self.memory_gib - share.memory_gib, tuple(devices))

    def holds(self, share: _Share) -> bool:
        """Whether all is there that a share takes; what it takes nothing of may be overdrawn."""
        return (
            share.cores <= self.cores
            and (not share.memory_gib or share.memory_gib < self.memory_gib + _ROUNDING)
            and all(part < self.devices[i] + _ROUNDING for i, part in share.devices.items())
        )

    def share_of(self, task: Task, total: "_Room") -> _Share:
        """What a task takes of what is free; of what it needs more of than there is, all."""
        needs, most = task.needs, len(total.devices)
        if most and needs.devices > most:
            log_once(
                f"qgf: warning: {task.name} needs {needs.devices} devices and gets the {most} here"
            )
        cores, memory = min(needs.cores, total.cores), min(needs.memory_gib, total.memory_gib)
        return _Share(cores, memory, self._devices_for(min(needs.devices, most)))

    def _devices_for(self, count: float) -> dict[int, float]:
        """Those with room: for a part of one the fullest, as others may need a whole one."""
        part = min(count, 1.0)
        places, free = range(len(self.devices)), self.devices
        fits = {i for i in places if part < free[i] + _ROUNDING}
        order = sorted(places, key=lambda i: (0, free[i]) if i in fits else (1, -free[i]))
        return dict.fromkeys(order[: math.ceil(count)], part)


_ROUNDING = 1e-6  # of sums of memory and of parts


class _Running(NamedTuple):
    task: Task
    process: subprocess.Popen
    share: _Share


class _Processes:
    """An engine."""

    def __init__(self, total: _Room, devices: Sequence[str]):
        self._total, self._devices = total, devices
        self._running: list[_Running] = []

    def start(self, tasks: Sequence[Task]) -> list[Task]:
        """Those that fit, in order; what does not fit keeps its share free, so that it is not passed."""
        free, started = self._total, []
        for one in self._running:
            free = free.without(one.share)
        for task in tasks:
            share = free.share_of(task, self._total)
            if free.holds(share):
                self._begin(task, share)
                started.append(task)
            free = free.without(share)
            if free.cores <= 0:
                break
        return started

    def _begin(self, task: Task, share: _Share) -> None:
        own = ",".join(self._devices[i] for i in sorted(share.devices))
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": own} if own else {})
        process = children.start_logged(task.command, task.log, cwd=task.cwd, env=environment)
        self._running.append(_Running(task, process, share))

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
