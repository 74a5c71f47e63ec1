"""CPU time of one update, sampling included, and how much of it is outside the compiled program.

    python benchmarks/train_step.py --width 8 --batch 256 --chunk 5

With networks of width 8 the arithmetic is next to nothing, so the figure is the overhead of the
training loop. The data are made up, with the shapes of cube-single. XLA gets one thread unless
--threads says otherwise: programs as small as this are faster so, and CPU time is counted once.

`loop_cpu_ms_per_update` is the main thread's CPU time in the loop of `qgf train` with its defaults,
from the third dispatch on: calling the program, looking for signals and data, and logging.
"""

import argparse
import contextlib
import io
import tempfile
import time
from typing import Any

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--width", type=int, default=8, help="of every hidden layer")
parser.add_argument("--depth", type=int, default=3, help="hidden layers")
parser.add_argument("--batch", type=int, default=256)
parser.add_argument("--chunk", type=int, default=5)
parser.add_argument("--obs", type=int, default=28, help="width of an observation")
parser.add_argument("--action", type=int, default=5, help="width of an action")
parser.add_argument("--rows", type=int, default=250_000, help="of the dataset")
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--steps", type=int, default=200, help="updates a dispatch")
parser.add_argument("--repeats", type=int, default=10)
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads, flags.width)

import jax
import numpy as np

from qgf_jax.data.feeder import DatasetFeed
from qgf_jax.data.load import Loaded
from qgf_jax.methods import table as algorithms
from qgf_jax.training import loop as pretrain
from qgf_jax.training.programs import Trainer


def loop(plain: dict[str, Any], spec: Any, dataset: Any) -> float:
    """CPU ms of the main thread for an update of a real run."""
    seen = []

    class Feed(DatasetFeed):
        def until(self, step: int) -> int:  # asked once for each dispatch
            seen.append((step, time.thread_time()))
            return super().until(step)

    steps = 5000
    options = {**plain["train"], "steps": steps, "save_every": steps, "log_every": 1000}
    config = {**plain, "train": options, "seeds": flags.seeds}
    loaded = Loaded(jax.device_get(dataset), None, spec._asdict(), {"sha256": ""})
    pretrain.DatasetFeed = Feed
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        pretrain.pretrain(config, folder, loaded)
    (first, began), (last, ended) = seen[2], seen[-1]
    return 1e3 * (ended - began) / (last - first)


def main() -> None:
    plain, spec, dataset = common.made_up_run(
        width=flags.width,
        depth=flags.depth,
        batch=flags.batch,
        chunk=flags.chunk,
        obs=flags.obs,
        action=flags.action,
        rows=flags.rows,
    )
    trainer = Trainer.of(algorithms.Builder(plain, spec).learner(), plain, spec)
    state = trainer.init(np.arange(flags.seeds))
    host = []

    def dispatch() -> None:
        nonlocal state
        started = time.thread_time()
        state, _ = trainer.run(state, dataset, flags.steps)
        host.append(time.thread_time() - started)
        jax.block_until_ready(state)

    dispatch()
    started = time.perf_counter()
    cpu = common.least_cpu_seconds(dispatch, flags.repeats)
    wall = (time.perf_counter() - started) / flags.repeats
    common.show(
        {
            "cpu_ms_per_update": 1e3 * cpu / flags.steps,
            "wall_ms_per_update": 1e3 * wall / flags.steps,
            "dispatch_cpu_ms_per_update": 1e3 * min(host) / flags.steps,
            "loop_cpu_ms_per_update": loop(plain, spec, dataset),
            "updates_per_dispatch": flags.steps,
            **{
                k: getattr(flags, k)
                for k in ("width", "depth", "batch", "chunk", "seeds", "threads")
            },
            **common.machine(),
        }
    )


main()
