"""What every benchmark says of where it ran, and how it takes times."""

import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any


def limit_threads(count: int) -> None:
    """Gives XLA so many threads on a CPU; before JAX is imported."""
    os.environ["NPROC"] = str(count)


def machine() -> dict[str, Any]:
    """The machine and versions, for the JSON object."""
    import jax

    return {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def least_cpu_seconds(call: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of the process for the quickest of `repeats` calls: noise only ever adds."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        call()
        best = min(best, time.process_time() - started)
    return best


def show(result: dict[str, Any]) -> None:
    """Prints the one JSON object."""
    print(json.dumps(result, indent=1))
