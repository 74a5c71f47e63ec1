"""What every benchmark says of where it ran, and how it takes times."""

import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

from qgf_jax.runtime import backend


def limit_threads(count: int, widest: int = 0) -> None:
    """Gives XLA so many threads on a CPU, and the flags that `qgf train` gives for layers so wide.

    Before JAX is imported.
    """
    os.environ["NPROC"] = str(count)
    backend.tune(widest=widest)


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


def made_up_run(
    *,
    width: int,
    depth: int,
    batch: int,
    chunk: int = 5,
    obs: int = 28,
    action: int = 5,
    rows: int = 250_000,
    critic: str = "",
    **changes: Any,
) -> tuple[dict[str, Any], Any, Any]:
    """(config, spec, dataset on the device) of QGF's learners on random data."""
    import jax

    from qgf_jax import config as configs
    from qgf_jax.types import Spec

    config = configs.make("qgf", critic=critic)
    config.env = "cube-single-play-singletask-task1-v0"
    hidden = (width,) * depth
    config.networks.update(policy_hidden=hidden, critic_hidden=hidden)
    config.train.batch_size = batch
    configs.update(config, {"data.chunk": chunk, **changes})
    spec = Spec((obs,), action, chunk)
    return configs.plain(config), spec, jax.device_put(made_up_data(spec, rows))


def made_up_data(spec: Any, rows: int, discount: float = 0.99) -> Any:
    """Random rows of the widths of `spec` in trajectories of 1000, prepared; with its goals, if any."""
    import numpy as np

    from qgf_jax.data.chunks import Dataset, GoalDataset
    from qgf_jax.data.formats import Rows

    rng = np.random.default_rng(0)
    ends = np.arange(rows) % 1001 == 1000
    ends[-1] = True
    observations = rng.standard_normal((rows, *spec.state), np.float32)
    actions = rng.uniform(-1, 1, (rows, spec.action)).astype(np.float32)
    made = Rows(observations, actions, ends, {})
    if spec.goal is not None:
        return GoalDataset.of(made, rng.standard_normal((rows, *spec.goal), np.float32))
    lengths = {"chunk": spec.chunk, "n_step": spec.n_step, "discount": discount}
    return Dataset.of(made, -np.ones(rows), np.ones(rows), **lengths)


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
