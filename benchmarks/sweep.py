"""What a sweep costs beside its runs: N tiny trainings with evaluation on the engine `local`.

    python benchmarks/sweep.py                      # 24 runs, as many at once as there are cores
    python benchmarks/sweep.py --jobs=4 --pack=4    # seeds in one program against one run each

`wall_ratio` is the sweep's seconds times the runs at once, over the seconds of the runs' own commands,
which job.log has; `cpu_ratio` the same of CPU seconds. Both sides are of one sweep, so that other load
counts on both; `others_cores` says how much there was. With --pack the seeds are trained twice, packed
and not, and `packed_over_alone` is of the CPU and wall seconds of both sweeps; on an accelerator too.
"""

import argparse
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import common

from qgf_jax.runtime import children

CONFIG = Path(__file__).resolve().parent.parent / "experiments" / "configs" / "smoke.py"
EVALUATION = "--methods=reference,qgf --weights=1 --episodes=2 --selection_episodes=0 --envs=2"
_DONE = re.compile(r": qgf (?:train|evaluate): done in ([\d.]+) s, ([\d.]+) s of a CPU$", re.M)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=24, help="seeds of the config")
    parser.add_argument("--steps", type=int, default=300, help="updates of each")
    parser.add_argument("--cores", type=int, default=0, help="of the engine; 0: all")
    parser.add_argument("--pack", type=int, default=0, help="seeds in one run, beside one each")
    return parser.parse_args()


def _busy() -> float:
    """CPU seconds of the whole machine so far."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _, _, irq, soft, _ = map(int, words)
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """CPU seconds of this process's children, and of theirs."""
    times = os.times()
    return times.children_user + times.children_system


def measure(out: Path, flags: argparse.Namespace, *more: str) -> dict[str, Any]:
    """One sweep: its seconds, those of its runs' own commands, and both ratios."""
    words = (
        "sweep", f"--config={CONFIG}", f"--grid=seed=0..{flags.jobs - 1}",
        f"--grid=train.steps={flags.steps}", f"--grid=train.save_every={flags.steps}",
        f"--evaluate={EVALUATION}", f"--out={out}", f"--cores={flags.cores}", *more,
    )  # fmt: skip
    command = children.command("qgf_jax", *words)
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": out.parent}
    subprocess.run([*command, "--dry_run"], **quiet)  # collects the data, if they are not there yet
    used, busy, began = _own(), _busy(), time.monotonic()
    subprocess.run(command, **quiet)
    wall, cpu, busy = time.monotonic() - began, _own() - used, _busy() - busy
    runs = [_DONE.findall(log.read_text()) for log in sorted(out.glob("*/job.log"))]
    own_wall, own_cpu = (sum(float(done[i]) for run in runs for done in run) for i in (0, 1))
    at_once = min(flags.cores or len(os.sched_getaffinity(0)), len(runs))
    return {
        "runs": len(runs),
        "commands": sum(map(len, runs)),
        "at_once": at_once,
        "wall_seconds": wall,
        "own_wall_seconds": own_wall,
        "wall_ratio": wall * at_once / own_wall,
        "cpu_seconds": cpu,
        "own_cpu_seconds": own_cpu,
        "cpu_ratio": cpu / own_cpu,
        "others_cores": (busy - cpu) / wall,
    }


def main() -> None:
    flags = _flags()
    with tempfile.TemporaryDirectory() as folder:
        alone = measure(Path(folder, "alone"), flags)
        packed = {}
        if flags.pack:
            packed = {"packed": measure(Path(folder, "packed"), flags, f"--pack={flags.pack}")}
            both = ("wall_seconds", "cpu_seconds")
            packed["packed_over_alone"] = {k: packed["packed"][k] / alone[k] for k in both}
    common.show({**alone, **packed, **common.machine()})


if __name__ == "__main__":
    main()
