"""Milliseconds of one action chunk in a control loop: one observation, one robot, `load_policy`.

    python benchmarks/latency.py RUN [--methods reference,qgf,best_of] [--hz 50] [--seconds 10]

Each method in turn is asked at every tick, as a robot asks: an observation in, NumPy's actions out,
asleep in between, which is slower than to ask without a pause. Keys are made before. A tick is late
whose actions come after the next one. Methods are all that the run can act with, unless named; with
weight 1, which costs what any other does.
"""

import argparse
import time
from typing import Any

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("run")
parser.add_argument("--methods", default="", help="NAME or NAME:option=value, comma-separated")
parser.add_argument("--hz", type=float, default=50.0)
parser.add_argument("--seconds", type=float, default=10.0, help="of each method")
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads)

import jax
import numpy as np

from qgf_jax.errors import UserError
from qgf_jax.methods.table import Method
from qgf_jax.runs.loaded import LoadedRun


def main() -> None:
    loaded = LoadedRun.open(flags.run)
    found: dict[str, Any] = {}
    left: dict[str, str] = {}
    trained = Method.named(loaded.run.config["algorithm"])
    for method in flags.methods.split(",") if flags.methods else trained.serves:
        try:
            found[method] = at_pace(loaded, method)
        except UserError as error:
            if flags.methods:
                raise SystemExit(f"latency: {error}") from None
            left[method] = str(error)
    networks = loaded.run.config["networks"]
    common.show(
        {
            "methods": found,
            "not_served": left,
            "hz": flags.hz,
            "obs": loaded.spec.width,
            "chunk": [loaded.spec.chunk, loaded.spec.action],
            "policy_hidden": networks["policy_hidden"],
            "critic_hidden": networks["critic_hidden"],
            "threads": flags.threads,
            **common.machine(),
        }
    )


def at_pace(loaded: LoadedRun, method: str) -> dict[str, float]:
    """Percentiles of a method's calls in milliseconds, and the share of ticks that were late."""
    name, options = Method.parse(method)
    policy = loaded.policy(name, **dict(options))
    policy.warmup()
    count = int(flags.hz * flags.seconds)
    keys = list(jax.random.split(jax.random.key(0), count))
    observations = np.random.default_rng(0).standard_normal((count, loaded.spec.width), np.float32)
    np.asarray(policy(observations[0], keys[0]))
    taken, start = [], time.perf_counter()
    for i in range(count):
        time.sleep(max(0.0, start + i / flags.hz - time.perf_counter()))
        begun = time.perf_counter()
        np.asarray(policy(observations[i], keys[i]))
        taken.append(time.perf_counter() - begun)
    found = {f"p{q}": float(np.percentile(taken, q)) for q in (50, 90, 99)}
    milliseconds = {k: round(1e3 * v, 3) for k, v in {**found, "most": max(taken)}.items()}
    return {**milliseconds, "late": float(np.mean([t > 1 / flags.hz for t in taken]))}


main()
