"""CPU time of one update, sampling included, and how much of it is outside the compiled program.

    python benchmarks/train_step.py --width 8 --batch 256 --chunk 5

With networks of width 8 the arithmetic is next to nothing, so the figure is the overhead of the
training loop. The data are made up, with the shapes of cube-single. XLA gets one thread unless
--threads says otherwise: programs as small as this are faster so, and CPU time is counted once.

`loop_cpu_ms_per_update` is the main thread's CPU time in the loop of `qgf train` with its defaults,
from the third dispatch on: calling the program, looking for signals and data, and logging.

    python benchmarks/train_step.py --width 256 --ensemble 10 --against 2

`cost_relative_to_2` is then the CPU time of an update with ten members over that of one with two, taken
by turns in one process; that of the loop is left out.
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
parser.add_argument("--critic", default="iql")
parser.add_argument("--ensemble", type=int, default=2, help="members of the critic")
parser.add_argument("--against", type=int, default=0, help="members that they are compared with")
parser.add_argument("--steps", type=int, default=200, help="updates a dispatch")
parser.add_argument("--repeats", type=int, default=10)
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads, flags.width)

import jax
import numpy as np

from qgf_jax.data.feeder import DatasetFeed
from qgf_jax.data.load import Loaded
from qgf_jax.methods.builder import Builder
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


class Updates:
    """A run with `ensemble` critics, and what its updates take."""

    def __init__(self, ensemble: int):
        self.plain, self.spec, self.dataset = common.made_up_run(
            width=flags.width,
            depth=flags.depth,
            batch=flags.batch,
            chunk=flags.chunk,
            obs=flags.obs,
            action=flags.action,
            rows=flags.rows,
            critic=flags.critic,
            **{"networks.ensemble": ensemble},
        )
        learner = Builder(self.plain, self.spec).learner()
        self.trainer = Trainer.of(learner, self.plain, self.spec)
        self.state = self.trainer.init(np.arange(flags.seeds))
        self.host: list[float] = []

    def dispatch(self) -> None:
        """Some updates, to their end."""
        started = time.thread_time()
        self.state, _ = self.trainer.run(self.state, self.dataset, flags.steps)
        self.host.append(time.thread_time() - started)
        jax.block_until_ready(self.state)


def ratio(one: Updates, other: Updates) -> float:
    """The CPU time of `one` over that of `other`, taken by turns."""
    other.dispatch()
    pairs = [
        [common.least_cpu_seconds(updates.dispatch, 1) for updates in (one, other)]
        for _ in range(flags.repeats)
    ]
    mine, theirs = (min(times) for times in zip(*pairs, strict=True))
    return mine / theirs


def main() -> None:
    updates = Updates(flags.ensemble)
    updates.dispatch()
    started = time.perf_counter()
    cpu = common.least_cpu_seconds(updates.dispatch, flags.repeats)
    wall = (time.perf_counter() - started) / flags.repeats
    if flags.against:
        more = {f"cost_relative_to_{flags.against}": ratio(updates, Updates(flags.against))}
    else:
        more = {"loop_cpu_ms_per_update": loop(updates.plain, updates.spec, updates.dataset)}
    common.show(
        {
            "cpu_ms_per_update": 1e3 * cpu / flags.steps,
            "wall_ms_per_update": 1e3 * wall / flags.steps,
            "dispatch_cpu_ms_per_update": 1e3 * min(updates.host) / flags.steps,
            **more,
            "updates_per_dispatch": flags.steps,
            **{
                k: getattr(flags, k)
                for k in (
                    "width",
                    "depth",
                    "batch",
                    "chunk",
                    "seeds",
                    "threads",
                    "critic",
                    "ensemble",
                )
            },
            **common.machine(),
        }
    )


main()
