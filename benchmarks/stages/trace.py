"""Kernels of a program on the device: from a profile, and from the compiled text."""

import collections
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

_AROUND = re.compile(r"while|call|cond")  # on a CPU: what others run inside of
_MOST = 12
"""Kernels that are named."""


def profile(call: Callable[[], Any], updates: int) -> dict[str, Any]:
    """Kernels an update, the share of the time in which one runs, and the longest by name.

    `call` does `updates` updates and waits for them. The profiler itself costs time, so rates are
    measured without it. Raises `ValueError` where the plug-in tells of no kernel.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        found = sorted(Path(folder).rglob("*.xplane.pb"))
        if not found:
            raise ValueError("the profiler has written nothing")
        planes = list(jax.profiler.ProfileData.from_file(str(found[-1])).planes)
        events = _events(planes)
    if not events:
        raise ValueError("the profile tells of no kernel")
    names: collections.Counter[str] = collections.Counter()
    count: collections.Counter[str] = collections.Counter()
    for name, start, end in events:
        names[name] += end - start
        count[name] += 1
    busy, span = _busy([(start, end) for _, start, end in events])
    return {
        "kernels_per_update": len(events) / updates,
        "busy_share": busy / span if span else None,
        "kernel_us_per_update": 1e-3 * sum(names.values()) / updates,
        "longest": [
            {
                "name": name[:100],
                "per_update": count[name] / updates,
                "us_per_update": 1e-3 * total / updates,
            }
            for name, total in names.most_common(_MOST)
        ],
    }


def _events(planes: list[Any]) -> list[tuple[str, float, float]]:
    """(name, start, end) in ns of what ran on the device; of a CPU the operations of the program."""
    on_device = [
        (event.name, event.start_ns, event.start_ns + event.duration_ns)
        for plane in planes
        if plane.name.startswith("/device:")
        for line in plane.lines
        # Streams of a GPU; a TPU has one line of operations. Other lines sum these up.
        if line.name.startswith("Stream") or line.name == "XLA Ops"
        for event in line.events
    ]
    if on_device:
        return on_device
    return [
        (event.name, event.start_ns, event.start_ns + event.duration_ns)
        for plane in planes
        if plane.name == "/host:CPU"
        for line in plane.lines
        for event in line.events
        if any(key == "hlo_op" for key, _ in event.stats) and not _AROUND.match(event.name)
    ]


def _busy(spans: list[tuple[float, float]]) -> tuple[float, float]:
    """Time in which any of `spans` runs, and from the first's start to the last's end."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total, reached - min(start for start, _ in spans)


_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"= (?:\(.*?\)|\S+) ([\w\-]+)\((?=[%)\d\w\-])")
_FREE = {"parameter", "constant", "bitcast", "get-tuple-element", "tuple", "after-all"}


def operations(text: str) -> dict[str, Any]:
    """Operations in the body of the longest loop of optimised HLO, by kind.

    On a GPU each is a kernel or a call of a library; `conditional` is what the host waits for.
    """
    bodies: dict[str, collections.Counter[str]] = {}
    name, loops = "", set()
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if header := _COMPUTATION.match(line):
            name = header[1]
            bodies[name] = collections.Counter()
        elif name and (found := _OPERATION.search(line)):
            if found[1] not in _FREE:
                bodies[name][found[1]] += 1
            loops |= set(re.findall(r"body=%?([\w.\-]+)", line))
    kinds = max((bodies[body] for body in loops), key=lambda c: c.total(), default={})
    return {"in_loop": sum(kinds.values()), "kinds": dict(sorted(kinds.items()))}
