"""The public code's update at the same sizes, if its checkout is given.

    git clone https://github.com/zhouzypaul/qgf; python benchmarks/accelerator.py --stages=e --public=qgf

Its agent is made and updated as its own main.py does, on one batch that lies on the device: no data
are read and none are sent, which its real loop does in every update.
"""

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from stages import programs
from stages.record import Deadline, Results, describe_device

_SIZES = ("4x512 batch 256", "4x1024 batch 1024")
_SECONDS = 1.5


def run(results: Results, deadline: Deadline, *, dry: bool, folder: Path) -> None:
    """Both sizes."""
    describe_device(results, dry=dry)
    sys.path.insert(0, str(folder.resolve()))
    os.chdir(folder)
    for name in deadline.take(_SIZES, results, "left_out"):
        with results.attempt(name):
            results.put(name, measure(name, dry=dry))


def measure(name: str, *, dry: bool) -> dict[str, Any]:
    """Updates a second of its agent `qgf`."""
    size = (programs.DRY if dry else programs.SIZES)[name]
    made = programs.make(name, dry=dry)
    config = importlib.import_module("agents.qgf").get_config()
    chunk = made.spec.chunk
    config.unlock()
    config.update(batch_size=size.batch, horizon_length=chunk)
    for key in config:
        if key.endswith("hidden_dims"):
            config[key] = size.hidden
    if "action_chunking" in config:
        config.action_chunking = True
    batch = _batch(size.batch, made.spec.width, made.spec.action, chunk)
    kind = importlib.import_module("agents").agents[config["agent_name"]]
    started = time.perf_counter()
    agent = kind.create(0, batch["observations"], batch["actions"], config)
    for _ in range(3):
        agent, info = agent.update(batch)
    jax.block_until_ready(info)
    compiled = time.perf_counter() - started
    count, cpu, started = 0, time.process_time(), time.perf_counter()
    while count < 10 or (not dry and time.perf_counter() - started < _SECONDS):
        agent, info = agent.update(batch)
        count += 1
    jax.block_until_ready((agent, info))
    seconds = time.perf_counter() - started
    return {
        "updates_per_second": count / seconds,
        "host_cpu_us_per_update": 1e6 * (time.process_time() - cpu) / count,
        "first_updates_seconds": compiled,
        "batch": size.batch,
        "hidden": size.hidden,
    }


def _batch(size: int, obs: int, action: int, chunk: int) -> dict[str, Any]:
    """Random numbers of the shapes that its sampler gives, on the device."""
    rng = np.random.default_rng(0)
    ones = np.ones((size, chunk), np.float32)
    made = {
        "observations": rng.standard_normal((size, obs), np.float32),
        "actions": rng.uniform(-1, 1, (size, chunk, action)).astype(np.float32),
        "next_observations": rng.standard_normal((size, chunk, obs), np.float32),
        "rewards": -ones,
        "masks": ones,
        "terminals": 0 * ones,
        "valid": ones,
    }
    return jax.device_put(made)
