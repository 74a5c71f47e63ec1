"""How an update's time grows with batch, width, ensemble, seeds side by side and devices.

    python benchmarks/scaling.py

One thing at a time is changed from networks of 3 x 128, batch 256, two critics, one seed, one device.
Devices are simulated on one processor, so what grows with them is overhead, not work.
"""

import argparse
import os

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=10, help="updates a dispatch")
parser.add_argument("--repeats", type=int, default=5)
flags = parser.parse_args()
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("NPROC", "16")  # fewer threads than simulated devices dead-lock on JAX 0.10
common.backend.tune()

import jax
import numpy as np

from qgf_jax.methods.builder import Builder
from qgf_jax.training import parallel

BASE = {"batch": 256, "width": 128, "ensemble": 2, "seeds": 1, "devices": 1}
CHANGES = {
    "batch": (64, 1024),
    "width": (32, 512),
    "ensemble": (4, 10),
    "seeds": (2, 4),
    "devices": (2, 4, 8),
}


def milliseconds(batch: int, width: int, ensemble: int, seeds: int, devices: int) -> float:
    """CPU time of one update of all seeds, at best."""
    config, spec, dataset = common.made_up_run(
        width=width, depth=3, batch=batch, rows=50_000, **{"networks.ensemble": ensemble}
    )
    config |= {"devices": str(devices), "seeds": seeds}
    layout = parallel.DeviceLayout.of(config)
    trainer = layout.make_trainer(Builder(config, spec).learner(), config, spec)
    host = jax.device_get(dataset)
    parts = host.split(devices, spec.chunk)
    dataset = layout.for_data().put(parts)
    state = layout.replicate(trainer.init(np.arange(seeds)))

    def dispatch() -> None:
        nonlocal state
        state, _ = trainer.run(state, dataset, flags.steps)
        jax.block_until_ready(state)

    dispatch()
    return 1e3 * common.least_cpu_seconds(dispatch, flags.repeats) / flags.steps


def main() -> None:
    base = milliseconds(**BASE)
    rows = [
        {
            "changed": name,
            "to": value,
            "relative_to_base": milliseconds(**BASE | {name: value}) / base,
        }
        for name, values in CHANGES.items()
        for value in values
    ]
    common.show({"base": BASE, "base_cpu_ms_per_update": base, "rows": rows, **common.machine()})


main()
