"""Memory of the workers that play environments, which never render.

    python benchmarks/environments.py --env scene-play --counts 1,10,40 --workers 2

The proportional set sizes of all workers after a reset and a chunk of every environment: a page that
several hold counts as a part in each. What a further environment takes is from the fewest to the most.
"""

import argparse
from pathlib import Path

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--env", default="scene-play", help="SCENE-KIND of the data")
parser.add_argument("--counts", default="2,8", help="environments at once")
parser.add_argument("--workers", type=int, default=1, help="processes")
flags = parser.parse_args()

import numpy as np

from qgf_jax.envs.pool import EnvPool


def megabytes(pid: int, name: str) -> float:
    """A number of kB from the process's files, such as Pss or VmHWM, the largest resident set."""
    for file in ("smaps_rollup", "status"):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    raise SystemExit(f"this system does not tell {name} of a process")


def measure(count: int) -> dict[str, float]:
    with EnvPool(f"{flags.env}-singletask-v0", count, flags.workers) as pool:
        slots = range(count)
        pool.reset(slots, slots)
        pool.step(slots, np.zeros((count, 5, pool.action_dim), np.float32))
        pids = [process.pid for process in pool._processes]
        total = sum(megabytes(pid, "Pss") for pid in pids)
        peaks = [megabytes(pid, "VmHWM") for pid in pids]
    return {"mb": total, "mb_an_environment": total / count, "peak_mb_of_a_worker": max(peaks)}


def main() -> None:
    counts = sorted(int(count) for count in flags.counts.split(","))
    found = {count: measure(count) for count in counts}
    fewest, most = found[counts[0]], found[counts[-1]]
    more = (most["mb"] - fewest["mb"]) / max(1, counts[-1] - counts[0])
    common.show(
        {"mb_of_a_further_environment": more, "environments": found, **vars(flags)}
        | common.machine()
    )


if __name__ == "__main__":
    main()
