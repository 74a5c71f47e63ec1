"""Runs what docs/ rests its figures on, one after the other, and rewrites docs/benchmarks.md.

    python benchmarks/all.py [NAME …]

Each prints its JSON object as it ends. A row of the table is what a claim of docs/ rests on. On a
busy machine ratios hold, single figures do not.
"""

import datetime
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"


class Row(NamedTuple):
    """A figure of the table."""

    what: str
    command: str
    path: tuple[str, ...]
    """Where it is in the JSON object."""
    bar: str = ""


_PAPER = "train_step.py --width 8 --depth 4 --batch 1024 --obs 46 --rows 1000000"
_ACT = "act.py --methods reference,best_of,qgf,qgf_jacobian,bptt"
_SWEEP = (
    "rollout.py --env cube-single-play --width 256 --chunk 5 --episodes 30 "
    "--weights .01,.02,.03,.04,.05,.06,.07,.08,.1"
)
ROWS = (
    Row("update, width 8, batch 256: CPU ms", "train_step.py", ("cpu_ms_per_update",)),
    Row(
        "update, width 8, the paper's batch and shapes: CPU ms",
        _PAPER,
        ("cpu_ms_per_update",),
        "2.2",
    ),
    Row("of which outside the program", _PAPER, ("loop_cpu_ms_per_update",), "0.05"),
    Row(
        "FLOP/s of an update, 4 x 512, of a matrix product's",
        "arithmetic.py",
        ("ratio",),
        "0.8 or more",
    ),
    Row(
        "skipping updates that are not finite: relative cost",
        "guard.py",
        ("guarded_over_bare",),
        "1.02",
    ),
    Row(
        "the same of four seeds side by side",
        "guard.py --seeds 4 --rounds 7 --width 128",
        ("guarded_over_bare",),
        "1.02",
    ),
    Row("QGF's action, of its parts alone", _ACT, ("qgf_relative_to_its_parts",), "1.05"),
    Row("reference, of QGF", _ACT, ("cost_relative_to_qgf", "reference"), "0.25"),
    Row("best of 4, of QGF", _ACT, ("cost_relative_to_qgf", "best_of_4"), "1.15"),
    Row("QGF-Jacobian, of QGF", _ACT, ("cost_relative_to_qgf", "qgf_jacobian"), "1.35"),
    Row("BPTT, of QGF", _ACT, ("cost_relative_to_qgf", "bptt"), "3.5"),
    Row("environment steps a CPU-second, of a bare loop's", "rollout.py", ("ratio",)),
    Row("the same of a sweep of 9 weights on cube-single", _SWEEP, ("ratio",), "0.71 or more"),
    Row(
        "the same of QGF in Gymnasium's HalfCheetah",
        "gymnasium_rollout.py",
        ("ratio",),
        "0.7 or more",
    ),
    Row("second start of a config, of the first", "start.py", ("ratio",), "0.33"),
    Row("point maze on the device: steps, of the real one's", "jax_pointmaze.py", ("ratio",)),
    Row(
        "streamed updates a second, of resident ones'",
        "stream.py",
        ("streamed_over_resident_wall",),
        "0.9 or more",
    ),
    Row("the same a CPU-second", "stream.py", ("streamed_over_resident_cpu",)),
    Row("the same: share of the time waiting for data", "stream.py", ("streamed", "share_waiting")),
    Row(
        "checksums of converted data, of the time of reading blocks from the disk as training does",
        "checksums.py",
        ("share_of_training_s_reading_from_disk",),
        "0.02",
    ),
    Row(
        "the same, of the CPU time where all of it is in the page cache",
        "checksums.py",
        ("share_of_training_s_reading",),
    ),
    Row(
        "peak memory of 1M transitions beyond imports: GB",
        "memory.py",
        ("peak_gb_beyond_imports",),
        "1.2",
    ),
    Row(
        "memory of a further scene environment: MB",
        "environments.py",
        ("mb_of_a_further_environment",),
        "40",
    ),
    Row(
        "24 tiny runs in a sweep: time, of their own over the cores",
        "sweep.py",
        ("wall_ratio",),
        "1.1",
    ),
)


def main() -> None:
    names = sys.argv[1:]
    results: dict[str, Mapping[str, Any]] = {}
    failed = False
    for command in dict.fromkeys([*(row.command for row in ROWS), "scaling.py"]):
        if names and command.split()[0].removesuffix(".py") not in names:
            continue
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, *f"{HERE}/{command}".split()], stdout=subprocess.PIPE, text=True
        )
        print(f"{command}: {time.monotonic() - started:.0f} s, exit code {done.returncode}")
        print(done.stdout)
        failed = failed or done.returncode != 0
        if done.returncode == 0:
            results[command] = json.loads(done.stdout)
    if not names:
        PAGE.write_text(page(results))
    sys.exit(int(failed))


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown of what was measured; what was not has a dash."""
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make benchmark`, {datetime.date.today()}, {_machine(results)}.",
        "CPU time, not wall time. What a figure means: its script, and [speed](speed.md).",
        "",
        "| what | command | measured | at most |",
        "| --- | --- | --- | --- |",
    ]
    for row in ROWS:
        found = _get(results.get(row.command, {}), row.path)
        lines.append(f"| {row.what} | `benchmarks/{row.command}` | {found} | {row.bar} |")
    if grown := results.get("scaling.py"):
        base = ", ".join(f"{k} {v}" for k, v in grown["base"].items())
        lines += [
            "",
            f"## How an update's time grows (`benchmarks/scaling.py`; base: {base}, 3 hidden layers)",
            "",
            "| changed | to | relative to base |",
            "| --- | --- | --- |",
        ]
        lines += [
            f"| {r['changed']} | {r['to']} | {r['relative_to_base']:.2f} |" for r in grown["rows"]
        ]
    return "\n".join(lines) + "\n"


def _get(found: Any, path: tuple[str, ...]) -> str:
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return "–" if found is None else f"{found:.3g}"


def _machine(results: Mapping[str, Mapping[str, Any]]) -> str:
    one = next(iter(results.values()), {})
    names = {"cores": "cores", "machine": "machine", "python": "Python", "jax": "JAX"}
    return ", ".join(f"{title} {one.get(key)}" for key, title in names.items())


main()
