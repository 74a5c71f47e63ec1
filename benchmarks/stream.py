"""Training from disk against training from memory, on a made-up dataset of cube-triple's shapes.

    python benchmarks/stream.py --rows 20000000 --width 8 --batch 1024

The dataset is written to --folder as `qgf convert` would, and removed afterwards. Each mode trains in
a process of its own. Memory is the peak beyond what the imports take. CPU time is all of the process,
the reading thread included, without loading and compiling, which are done in the first --warm updates.
`streaming_over_still_cpu` compares, in turn in one process, updates on a window that changes with as
many on the same window while nothing is read.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rows", type=int, default=4_004_000, help="of the dataset")
parser.add_argument("--width", type=int, default=8, help="of every hidden layer")
parser.add_argument("--batch", type=int, default=1024)
parser.add_argument("--chunk", type=int, default=5)
parser.add_argument("--steps", type=int, default=3000, help="updates that are counted")
parser.add_argument("--warm", type=int, default=1000, help="updates before those")
parser.add_argument("--pairs", type=int, default=4, help="of rounds with a change and without")
parser.add_argument("--block", type=int, default=250_000)
parser.add_argument("--window", type=int, default=8)
parser.add_argument("--folder", default="runs", help="where the dataset is made, and removed")
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
parser.add_argument("--modes", default="streamed,resident")
parser.add_argument("--child", default="", help=argparse.SUPPRESS)
flags = parser.parse_args()
ENV = "cube-triple-play-singletask-task1-v0"
NAME = "cube-triple-play-v0"


def make() -> None:
    """Slices of a million rows of noise."""
    import numpy as np

    from qgf_jax.data.converted import Manifest
    from qgf_jax.data.formats import Rows

    rng = np.random.default_rng(0)
    size = min(1001 * 1000, flags.rows)

    def slices():
        for i in range(-(-flags.rows // size)):
            n = min(size, flags.rows - i * size)
            ends = np.arange(n) % 1001 == 1000
            ends[-1] = True
            arrays = [rng.standard_normal((n, w), np.float32) for w in (46, 35)]
            actions = rng.random((n, 5), np.float32) * 2 - 1
            yield str(i), Rows(arrays[0], actions, ends, {"qpos": arrays[1]})

    Manifest.write(Path(flags.folder, NAME), slices())


def train() -> None:
    """One mode: what it took, as a JSON object."""
    common.limit_threads(flags.threads, flags.width)
    import warnings

    import jax
    import numpy as np

    warnings.filterwarnings("ignore", module="gymnasium")
    from qgf_jax import config as configs
    from qgf_jax.data.feeder import DatasetFeed
    from qgf_jax.data.load import Loaded
    from qgf_jax.methods.builder import Builder
    from qgf_jax.training.programs import Trainer
    from qgf_jax.types import Spec

    config = configs.make("qgf")
    config.env = ENV
    config.data.update(
        dir=flags.folder,
        mode=flags.child,
        chunk=flags.chunk,
        block=flags.block,
        window=flags.window,
    )
    width = (flags.width,) * 3
    config.networks.update(policy_hidden=width, critic_hidden=width)
    config.train.batch_size = flags.batch
    config = configs.plain(config)
    jax.block_until_ready(jax.numpy.zeros(1) + 1)
    from qgf_jax.envs import ogbench

    ogbench.FAMILY.make(ENV).reset(0)  # imports the simulator
    imported = peak()
    loaded = Loaded.of(config)
    loading = peak()
    spec = Spec.of(loaded.spec)
    feed = DatasetFeed(loaded, spec.steps)
    learner = Builder(config, spec).learner()
    trainer = Trainer.of(learner, config, spec, blocks=feed.blocks)
    state, step = trainer.init(np.arange(1)), 0
    if flags.child == "streamed" and not feed.every:
        sys.exit("the window holds all of it, so nothing is streamed: more --rows")

    def run(last: int):
        nonlocal state, step
        while step < last:
            if not feed.ready(step):  # as the training loop does
                jax.block_until_ready(state)
            dataset = feed.at(step)
            state, _ = trainer.run(state, dataset, 100)
            step += 100
        jax.block_until_ready(state)

    run(flags.warm)
    waited, wall, cpu = feed.waited, time.perf_counter(), time.process_time()
    run(flags.warm + flags.steps)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    result = {
        "mode": flags.child,
        "peak_gb_beyond_imports": (peak() - imported) / 2**30,
        "peak_gb_while_loading": (loading - imported) / 2**30,
        "updates_per_cpu_second": flags.steps / cpu,
        "updates_per_second": flags.steps / wall,
        "share_waiting": (feed.waited - waited) / wall,
        "steps_between_changes": feed.every,
        "changes": (flags.steps // feed.every) if feed.every else 0,
    }
    spent = {True: 0.0, False: 0.0}
    for i in range(2 * flags.pairs if feed.every else 0):
        changing, begun = i % 2 == 0, time.process_time()
        dataset = feed.at(step)  # changes the window, and has the next block read, or does nothing
        for _ in range(feed.every // 100):
            state, _ = trainer.run(state, dataset, 100)
        jax.block_until_ready(state)
        while not feed.ready(step + feed.every):
            time.sleep(0.01)
        spent[changing] += time.process_time() - begun
        step += 0 if changing else feed.every
    if feed.every:
        result["streaming_over_still_cpu"] = spent[False] / spent[True]
    feed.close()
    print(json.dumps(result))


def peak() -> int:
    """Bytes of the largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    made = time.perf_counter()
    try:
        make()
        made = time.perf_counter() - made
        size = sum(p.stat().st_size for p in Path(flags.folder, NAME).iterdir())
        found = {}
        for mode in flags.modes.split(","):
            command = [sys.executable, *sys.argv, "--child", mode]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[mode] = json.loads(result.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(Path(flags.folder, NAME), ignore_errors=True)
    rates = [found[m]["updates_per_cpu_second"] for m in ("streamed", "resident") if m in found]
    walls = [found[m]["updates_per_second"] for m in ("streamed", "resident") if m in found]
    common.show(
        {
            "streamed_over_resident_cpu": rates[0] / rates[-1],
            "streamed_over_resident_wall": walls[0] / walls[-1],
            **found,
            "dataset_gb": size / 2**30,
            "seconds_to_make_it": made,
            **{k: v for k, v in vars(flags).items() if k not in ("child", "folder", "modes")},
            **common.machine(),
        }
    )


if flags.child:
    train()
else:
    main()
