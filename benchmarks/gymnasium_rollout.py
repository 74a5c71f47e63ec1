"""Evaluation steps a CPU-second in an environment of Gymnasium, against a bare loop over it.

    python benchmarks/gymnasium_rollout.py --env=HalfCheetah-v5

The bare loop plays the very actions of the evaluation from the same seeds, in processes as many as there
were workers, so that it takes the same steps of the simulator. Prints one JSON object.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import common
import numpy as np

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--env", default="HalfCheetah-v5")
parser.add_argument("--method", default="qgf")
parser.add_argument("--width", type=int, default=128, help="of every hidden layer")
parser.add_argument("--depth", type=int, default=3, help="hidden layers")
parser.add_argument("--chunk", type=int, default=10)
parser.add_argument("--episodes", type=int, default=96)
parser.add_argument("--envs", type=int, default=48, help="environments at once")
parser.add_argument("--workers", type=int, default=2, help="processes")
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads, flags.width)

from qgf_jax import config as configs
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.envs.pool import EnvPool
from qgf_jax.evaluation import evaluate, worker_pool
from qgf_jax.evaluation.arms import Arm
from qgf_jax.training.loop import pretrain

BARE = """
import random, sys, time
import gymnasium, numpy as np

env = gymnasium.make(sys.argv[1], disable_env_checker=True)
with np.load(sys.argv[2]) as file:
    episodes = {int(key.split("-")[1]): file[key] for key in file.files}
env.reset(seed=0)
steps, started = 0, time.process_time()
for seed, actions in episodes.items():
    env.reset(seed=seed)
    for action in actions:
        env.step(action)
        steps += 1
print(steps, time.process_time() - started)
"""


class RecordingPool(EnvPool):
    """Notes the actions of every episode."""

    episodes: ClassVar[list] = []

    def ask_reset(self, slots, seeds):
        move = super().ask_reset(slots, seeds)
        RecordingPool.episodes += [self._episodes[slot] for slot in slots]
        return move


def record(path: Path) -> None:
    """Rows of random episodes, to train a policy that acts at random."""
    name = EnvName.parse(flags.env)
    made, rng = Family.of(name).make(name), np.random.default_rng(0)
    rows = []
    for episode in range(8):
        obs, over = made.reset(episode), False
        while not over:
            action = rng.uniform(-1, 1, made.action_dim).astype(np.float32)
            after, reward, over, _ = made.step(action)
            rows.append((obs, action, False, reward))
            obs = after
        rows.append((obs, np.zeros(made.action_dim, np.float32), True, 0.0))
    keys = ("observations", "actions", "terminals", "rewards")
    np.savez(path, **dict(zip(keys, map(np.array, zip(*rows, strict=True)), strict=True)))


def bare_rate(folder: str) -> float:
    """Steps a CPU-second of bare loops over the recorded episodes, as many at once as workers were."""
    running = []
    for worker in range(flags.workers):
        mine = RecordingPool.episodes[worker :: flags.workers]
        path = Path(folder) / f"episodes{worker}.npz"
        chunks = {f"{i}-{e.seed}": np.concatenate(e.chunks) for i, e in enumerate(mine)}
        np.savez(path, **chunks)
        command = [sys.executable, "-c", BARE, flags.env, str(path)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    figures = [process.communicate()[0].split()[-2:] for process in running]
    return sum(int(f[0]) for f in figures) / sum(float(f[1]) for f in figures)


def main() -> None:
    worker_pool.EnvPool = RecordingPool
    with tempfile.TemporaryDirectory() as folder:
        record(Path(folder) / "random.npz")
        config = configs.make("qgf")
        config.env = flags.env
        config.data.update(dir=folder, name="random", chunk=flags.chunk, standardize=True)
        hidden = (flags.width,) * flags.depth
        config.networks.update(policy_hidden=hidden, critic_hidden=hidden)
        config.train.update(steps=1, batch_size=8)
        workdir = pretrain(configs.plain(config), Path(folder) / "run")
        usage = evaluate.evaluate(
            workdir,
            Arm.sweep([flags.method], [0.1]),
            episodes=flags.episodes,
            selection_episodes=0,
            envs=flags.envs,
            workers=flags.workers,
        )
        simulator = bare_rate(folder)
    in_workers = usage.env_steps / usage.simulator_cpu_seconds
    common.show(
        {
            "steps_per_cpu_second": usage.env_steps / usage.cpu_seconds,
            "worker_steps_per_cpu_second": in_workers,
            "bare_steps_per_cpu_second": simulator,
            "ratio": usage.env_steps / usage.cpu_seconds / simulator,
            "ratio_of_workers": in_workers / simulator,
            "env_steps": usage.env_steps,
            "wall_seconds": usage.wall_seconds,
            **{k: getattr(flags, k) for k in vars(flags)},
            **common.machine(),
        }
    )


if __name__ == "__main__":
    main()
