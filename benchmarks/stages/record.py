"""The result file of `accelerator.py`, written whole after every measurement. No JAX on import."""

import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FORM = 1
"""Of the file: a larger number where a key means something else than before."""
LONGEST = 200
"""Letters of a cause."""


class NotAnAcceleratorError(Exception):
    """The device is a CPU, and nobody said --dry."""


class Results:
    """The file, and the stage that writes to it. One process at a time does."""

    def __init__(self, path: Path, stage: str = ""):
        self.path, self.stage = path, stage

    def read(self) -> dict[str, Any]:
        """All of it."""
        return json.loads(self.path.read_text())

    def write(self, content: dict[str, Any]) -> None:
        """All of it or none: a reader never sees half a file."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(self.path)

    def note(self, **values: Any) -> None:
        """Keys of the whole file."""
        self.write(self.read() | values)

    def of_stage(self, **values: Any) -> None:
        """Keys of this stage."""
        content = self.read()
        content["stages"].setdefault(self.stage, {"results": {}}).update(values)
        self.write(content)

    def put(self, name: str, value: Any) -> None:
        """One measurement of this stage. Of a value that is a dict the keys join those before."""
        content = self.read()
        results = content["stages"][self.stage]["results"]
        both = isinstance(value, dict) and isinstance(results.get(name), dict)
        results[name] = results[name] | value if both else value
        self.write(content)

    @contextlib.contextmanager
    def attempt(self, name: str) -> Generator[None]:
        """What fails in the block is `{"failed": one line}` under `name`, and the next goes on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.put(name, {"failed": cause(error)})


class Deadline:
    """When a stage must have ended."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def take(
        self, plan: Iterable[Any], results: Results, name: str, *, alike: bool = True
    ) -> Generator[Any]:
        """Those of `plan` for which there is time; the others are written under `name`.

        Of what is `alike` none begins that would not end if it took as long as the longest so far.
        """
        longest, rest = 0.0, list(plan)
        while rest and self.left() > longest:
            started = time.monotonic()
            yield rest.pop(0)
            if alike:
                longest = max(longest, time.monotonic() - started)
        if rest:
            results.put(name, [str(one) for one in rest])


def cause(error: BaseException) -> str:
    """One line."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text[:LONGEST]


def commit() -> str:
    """Of the checkout, with "+" where files differ from it; "unknown" outside of one."""
    git = ["git", "-C", str(ROOT)]
    try:
        found = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip() + "+" * bool(changed.stdout.strip())


def opening(words: list[str], minutes: float, *, dry: bool) -> dict[str, Any]:
    """What the file begins with."""
    named = ("XLA_", "JAX_", "CUDA_VISIBLE", "NVIDIA_TF32", "TF_", "NPROC")
    return {
        "form": FORM,
        "command": " ".join(["python", "benchmarks/accelerator.py", *words]),
        "minutes": minutes,
        "dry": dry,
        "commit": commit(),
        "begun": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(named)},
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "device": None,
        "versions": None,
        "stages": {},
    }


def describe_device(results: Results, *, dry: bool) -> Any:
    """The device that is measured, written down once. Raises `NotAnAcceleratorError` on a CPU."""
    import jax

    from qgf_jax.runs.run import Run
    from stages.limits import peaks

    device = jax.devices()[0]
    if device.platform == "cpu" and not dry:
        raise NotAnAcceleratorError
    stats = device.memory_stats() or {}
    limits = peaks(device.device_kind)
    about = {
        "kind": device.device_kind,
        "platform": device.platform,
        "count": jax.device_count(),
        "memory_bytes": stats.get("bytes_limit"),
        "peaks": limits._asdict() if limits else None,
    }
    if results.read()["device"] is None:
        results.note(device=about, versions=Run.versions())
    return device


def python(*words: str, env: dict[str, str] | None = None) -> tuple[list[str], dict[str, str]]:
    """Command and environment of another Python that finds this checkout's package first."""
    places = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, places))
    return [sys.executable, *words], {**os.environ, "PYTHONPATH": path, **(env or {})}


def said(command: list[str], env: dict[str, str]) -> str:
    """What a process of its own says; its last line is the cause if it fails."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"left with {done.returncode}: {' '.join(last)}")
    return done.stdout.strip()
