"""Environment steps a CPU-second while evaluating, beside a bare loop over `env.step`.

    python benchmarks/rollout.py

evaluates QGF on an untrained run (so that no episode ends early) with the quickstart's networks, then
plays the same episodes again, action by action, without a policy. Both figures count all CPU time of
all processes, resets included, start and compilation left out.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--env", default="pointmaze-medium-stitch", help="SCENE-KIND of the data")
parser.add_argument("--width", type=int, default=128, help="of every hidden layer")
parser.add_argument("--depth", type=int, default=3, help="hidden layers")
parser.add_argument("--chunk", type=int, default=10)
parser.add_argument("--envs", type=int, default=40, help="environments at once")
parser.add_argument("--workers", type=int, default=2, help="processes")
parser.add_argument("--episodes", type=int, default=40)
parser.add_argument("--method", default="qgf")
parser.add_argument("--weights", default="0.1", help="a sweep: so many times the episodes")
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads)

import numpy as np

from qgf_jax import config as configs
from qgf_jax.data.collect import collect
from qgf_jax.envs import ogbench, pool
from qgf_jax.evaluation import evaluate, worker_pool
from qgf_jax.evaluation.arms import Arm
from qgf_jax.training.loop import pretrain

BARE = """
import sys, time
import numpy as np
from qgf_jax.envs import ogbench
env = ogbench.FAMILY.gym(sys.argv[1])
ogbench.FAMILY.reset(env, 0)
with np.load(sys.argv[2], allow_pickle=False) as file:
    episodes = [(int(key.split("-")[1]), file[key]) for key in file.files]
started, steps = time.process_time(), 0
for seed, actions in episodes:
    ogbench.FAMILY.reset(env, seed)
    for action in actions:
        env.step(action)
    steps += len(actions)
print(steps, time.process_time() - started)
"""


class RecordingPool(pool.EnvPool):
    """Keeps the seed and the actions of every episode, so that a bare loop can play them again."""

    episodes: ClassVar[list[tuple[int, list[np.ndarray]]]] = []

    def ask_reset(self, slots: Sequence[int], seeds: Sequence[int]) -> pool.Move:
        begun: list[tuple[int, list[np.ndarray]]] = [(seed, []) for seed in seeds]
        self.episodes.extend(begun)
        self.playing = getattr(self, "playing", {}) | dict(zip(slots, begun, strict=True))
        return super().ask_reset(slots, seeds)

    def ask_step(self, slots: Sequence[int], chunks: np.ndarray) -> pool.Move:
        self.chunks = getattr(self, "chunks", {}) | dict(zip(slots, chunks, strict=True))
        return super().ask_step(slots, chunks)

    def answer(self, move: pool.Move) -> tuple[np.ndarray, list[pool.Played]]:
        obs, played = super().answer(move)
        for slot, result in zip(move.slots, played, strict=True):
            if result.steps:
                self.playing[slot][1].append(self.chunks[slot][: result.steps])
        return obs, played


def bare_rate(env_id: str, folder: str) -> float:
    """Steps a CPU-second of bare loops over the recorded episodes, as many at once as workers were.

    At once, because two busy hyperthreads of one core are each slower than one alone.
    """
    episodes, running = RecordingPool.episodes, []
    for worker in range(flags.workers):
        numbered = enumerate(episodes[worker :: flags.workers])
        mine = {f"{i}-{seed}": np.concatenate(actions) for i, (seed, actions) in numbered}
        path = Path(folder) / f"episodes{worker}.npz"
        np.savez(path, **mine)
        command = [sys.executable, "-c", BARE, env_id, str(path)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    figures = [process.communicate()[0].split() for process in running]
    return sum(int(f[0]) for f in figures) / sum(float(f[1]) for f in figures)


def main() -> None:
    worker_pool.EnvPool = RecordingPool
    with tempfile.TemporaryDirectory() as folder:
        config = configs.make("qgf")
        config.env = f"{flags.env}-singletask-v0"
        config.data.update(dir=folder, chunk=flags.chunk, standardize=True)
        hidden = (flags.width,) * flags.depth
        config.networks.update(policy_hidden=hidden, critic_hidden=hidden)
        config.train.update(steps=1, batch_size=8)
        name = ogbench.FAMILY.parse(config.env)
        collect(name.dataset, 2, folder, workers=flags.workers)
        workdir = pretrain(configs.plain(config), Path(folder) / "run")
        usage = evaluate.evaluate(
            workdir,
            Arm.sweep([flags.method], [float(w) for w in flags.weights.split(",")]),
            episodes=flags.episodes,
            selection_episodes=0,
            envs=flags.envs,
            workers=flags.workers,
        )
        simulator = bare_rate(name.env_id, folder)
    rate = usage.env_steps / usage.cpu_seconds
    common.show(
        {
            "steps_per_cpu_second": rate,
            "simulator_steps_per_cpu_second": simulator,
            "ratio": rate / simulator,
            "share_of_cpu_in_workers": usage.simulator_cpu_seconds / usage.cpu_seconds,
            "share_of_wall_waiting_for_simulator": usage.waited_for_simulator / usage.wall_seconds,
            "share_of_wall_waiting_for_policy": usage.waited_for_policy / usage.wall_seconds,
            "wall_seconds": usage.wall_seconds,
            "env_steps": usage.env_steps,
            "env": name.env_id,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            **{
                k: getattr(flags, k)
                for k in (
                    "method",
                    "weights",
                    "width",
                    "depth",
                    "chunk",
                    "envs",
                    "workers",
                    "threads",
                )
            },
            **common.machine(),
        }
    )


if __name__ == "__main__":
    main()
