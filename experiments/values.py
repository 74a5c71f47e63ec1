"""Q of the data's actions by step, one line for a run and a step, from what training wrote down.

    python experiments/values.py runs/diverge --every=10000 > experiments/results/diverge.csv

Numbers of the batch of that step; with several seeds the mean, and the least and the largest seed's Q.
"""

import argparse
import csv
import sys
from pathlib import Path

from qgf_jax.runs.metrics import MetricsLog

KEYS = ("critic/q_mean", "critic/q_min", "critic/q_max", "critic/loss", "validation/critic/loss")


def rows_of(run: Path, every: int) -> list[list[object]]:
    """[run, step, …] of each step that `every` divides."""
    found = []
    for line in MetricsLog.read(run / "metrics.jsonl").records:
        if line["step"] % every == 0 and KEYS[0] in line:
            seeds = [v for k, v in line.items() if k.startswith(f"{KEYS[0]}/seed")] or [
                line[KEYS[0]]
            ]
            numbers = [line.get(key) for key in KEYS] + [min(seeds), max(seeds)]
            found.append([run.name, line["step"], *(f"{x:.4g}" if x else x for x in numbers)])
    return found


def main() -> None:
    """Writes CSV on standard output."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=10_000)
    flags = parser.parse_args()
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["run", "step", *KEYS, "least seed", "largest seed"])
    for run in sorted(flags.folder.iterdir()):
        if (run / "metrics.jsonl").exists():
            out.writerows(rows_of(run, flags.every))


if __name__ == "__main__":
    main()
