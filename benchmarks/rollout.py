"""Environment steps a CPU-second while evaluating, beside a bare loop over `env.step`.

    python benchmarks/rollout.py

evaluates QGF on an untrained run (so that no episode ends early) with the quickstart's networks. Both
figures count all CPU time of all processes, resets included, start and compilation left out.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--env", default="pointmaze-medium-stitch", help="SCENE-KIND of the data")
parser.add_argument("--width", type=int, default=128, help="of every hidden layer")
parser.add_argument("--depth", type=int, default=3, help="hidden layers")
parser.add_argument("--chunk", type=int, default=10)
parser.add_argument("--envs", type=int, default=20, help="environments at once")
parser.add_argument("--workers", type=int, default=2, help="processes")
parser.add_argument("--episodes", type=int, default=40)
parser.add_argument("--method", default="qgf")
flags = parser.parse_args()

BARE = """
import sys, time
import numpy as np
from qgf_jax.envs import ogbench
env = ogbench.make(sys.argv[1])
ogbench.reset(env, 0)
actions = np.random.default_rng(0).uniform(-1, 1, (int(sys.argv[2]), *env.action_space.shape))
started = time.process_time()
for i, action in enumerate(actions.astype(np.float32)):
    _, _, terminated, truncated, _ = env.step(action)
    if terminated or truncated:
        ogbench.reset(env, i)
print(len(actions) / (time.process_time() - started))
"""


def main() -> None:
    from qgf_jax import config as configs
    from qgf_jax import evaluate
    from qgf_jax.data.collect import collect
    from qgf_jax.envs import ogbench
    from qgf_jax.pretrain import pretrain

    with tempfile.TemporaryDirectory() as folder:
        config = configs.make("qgf")
        config.env = f"{flags.env}-singletask-v0"
        config.data.update(dir=folder, chunk=flags.chunk, standardize=True)
        hidden = (flags.width,) * flags.depth
        config.networks.update(policy_hidden=hidden, critic_hidden=hidden)
        config.train.update(steps=1, batch_size=8)
        name = ogbench.parse(config.env)
        collect(name.dataset, 2, folder, workers=flags.workers)
        workdir = pretrain(configs.plain(config), Path(folder) / "run")
        usage = evaluate.evaluate(
            workdir,
            evaluate.arms([flags.method], [0.1]),
            episodes=flags.episodes,
            selection_episodes=0,
            envs=flags.envs,
            workers=flags.workers,
        )
    # Right after, on the same machine: the loop that any evaluation must at least run.
    steps = str(max(2000, usage.env_steps // 4))
    bare = subprocess.run(
        [sys.executable, "-c", BARE, name.env_id, steps], capture_output=True, text=True, check=True
    )
    simulator = float(bare.stdout)
    rate = usage.env_steps / usage.cpu_seconds
    common.show(
        {
            "steps_per_cpu_second": rate,
            "simulator_steps_per_cpu_second": simulator,
            "ratio": rate / simulator,
            "share_of_cpu_in_workers": usage.simulator_cpu_seconds / usage.cpu_seconds,
            "env_steps": usage.env_steps,
            "env": name.env_id,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            **{
                k: getattr(flags, k)
                for k in ("method", "width", "depth", "chunk", "envs", "workers")
            },
            **common.machine(),
        }
    )


if __name__ == "__main__":
    main()
