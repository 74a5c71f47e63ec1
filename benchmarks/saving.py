"""What checkpoints cost a training: the share of wall time in which it waits for them.

    python benchmarks/saving.py --width 256 --every 1000

One save every so many steps, and the one at the end, for which there is nothing to do but wait.
"""

import argparse
import tempfile
import time
from pathlib import Path

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--width", type=int, default=256, help="of every hidden layer")
parser.add_argument("--depth", type=int, default=3, help="hidden layers")
parser.add_argument("--batch", type=int, default=256)
parser.add_argument("--steps", type=int, default=4000)
parser.add_argument("--every", type=int, default=1000, help="steps between two saves")
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads)

import numpy as np

from qgf_jax import config as configs
from qgf_jax.data.chunks import Dataset
from qgf_jax.data.formats import Rows
from qgf_jax.data.load import Loaded
from qgf_jax.runs import checkpoint
from qgf_jax.runs.metrics import Clock
from qgf_jax.training import loop as pretrain
from qgf_jax.types import Spec

ROWS, OBS, ACTION, CHUNK = 20_000, 28, 5, 5


def made_up() -> Loaded:
    rng = np.random.default_rng(0)
    ends = np.arange(1, ROWS + 1) % 200 == 0
    obs = rng.normal(size=(ROWS, OBS)).astype(np.float32)
    rows = Rows(obs, rng.uniform(-0.9, 0.9, (ROWS, ACTION)).astype(np.float32), ends, {})
    dataset = Dataset.of(
        rows, -np.ones(ROWS), np.ones(ROWS), chunk=CHUNK, discount=0.99, action_clip=1e-5
    )
    spec = Spec((OBS,), ACTION, CHUNK)._asdict()
    return Loaded(dataset, None, spec, {"file": "made up", "sha256": "", "rows": ROWS})


class Timed(checkpoint.Checkpoints):
    """Adds up how long its caller waits, and how long restoring takes beside the training."""

    waited = 0.0
    restored = 0.0
    saves = 0

    def save(self, *args) -> None:
        started = time.perf_counter()
        super().save(*args)
        Timed.waited += time.perf_counter() - started
        Timed.saves += 1

    def _check_restores(self, *args) -> None:
        started = time.perf_counter()
        super()._check_restores(*args)
        Timed.restored += time.perf_counter() - started


def main() -> None:
    config = configs.make("qgf")
    hidden = (flags.width,) * flags.depth
    config.env = "cube-single-play-singletask-task2-v0"
    config.networks.update(policy_hidden=hidden, critic_hidden=hidden)
    config.train.update(
        steps=flags.steps, batch_size=flags.batch, save_every=flags.every, log_every=flags.every
    )
    clock = Clock()
    pretrain.Checkpoints, pretrain.Clock = Timed, lambda: clock
    with tempfile.TemporaryDirectory() as place:
        workdir = pretrain.pretrain(configs.plain(config), Path(place) / "run", made_up())
        found = checkpoint.Checkpoints(workdir)
        step = found.root / str(found.steps()[-1])
        size = sum(path.stat().st_size for path in step.rglob("*") if path.is_file())
    training = clock.seconds["train"] + Timed.waited
    common.show(
        {
            "blocked_share": Timed.waited / training,
            "blocked_ms_per_save": 1e3 * Timed.waited / Timed.saves,
            "restore_ms_per_save": 1e3 * Timed.restored / Timed.saves,
            "ms_per_update": 1e3 * clock.seconds["train"] / flags.steps,
            "checkpoint_bytes": size,
            "last_wait_ms": 1e3 * (clock.seconds["checkpoint"] - Timed.waited),
            "seconds": dict(clock.seconds),
            **vars(flags),
            **common.machine(),
        }
    )


if __name__ == "__main__":
    main()
