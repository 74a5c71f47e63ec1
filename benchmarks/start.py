"""Seconds to the first update and to the first action, compiled anew and from the cache on disk.

    python benchmarks/start.py

Each start is a process of its own, with the networks of the quickstart on a few made-up episodes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common

CODE = """
import json, resource, sys, time
from pathlib import Path
started = time.process_time()
import jax
import numpy as np
import common
from qgf_jax.methods.builder import Builder
from qgf_jax.methods import table as algorithms
from qgf_jax.training.programs import Trainer
imported = time.process_time()
width = int(sys.argv[1])
config, spec, dataset = common.made_up_run(width=width, depth=3, batch=256, chunk=10, rows=20_000)
trainer = Trainer.of(Builder(config, spec).learner(), config, spec)
state = trainer.init(np.arange(1))
state, _ = trainer.run(state, dataset, 100)
jax.block_until_ready(state)
trained = time.process_time()
sample = Builder(config, spec).sample("qgf")
groups = jax.tree.map(lambda x: x[0], (state.params, state.target_params))
params = algorithms.acting_params(*groups)
act = jax.jit(jax.vmap(sample, in_axes=(None, 0, 0, None)))
keys = jax.random.split(jax.random.key(0), 40)
obs = spec.observation(np.zeros((40, spec.width), np.float32))
jax.block_until_ready(act(params, obs, keys, np.float32(1)))
print(json.dumps([imported - started, trained - imported, time.process_time() - trained]))
"""
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--width", type=int, default=128)
flags = parser.parse_args()


def start(cache: str) -> list[float]:
    """CPU seconds of import, to the first hundred updates, and to the first actions."""
    here = Path(__file__).parent
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "PYTHONPATH": f"{here}{os.pathsep}{here.parent}",
        "NPROC": "1",
    }
    command = [sys.executable, "-c", CODE, str(flags.width)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        first, second = start(cache), start(cache)
    keys = ("import", "first_updates", "first_actions")
    common.show(
        {
            "cpu_seconds": dict(zip(keys, first, strict=True)),
            "cpu_seconds_from_cache": dict(zip(keys, second, strict=True)),
            "ratio_without_import": sum(second[1:]) / sum(first[1:]),
            "ratio": sum(second) / sum(first),
            "width": flags.width,
            **common.machine(),
        }
    )


main()
