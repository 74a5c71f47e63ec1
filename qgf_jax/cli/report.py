"""qgf report"""

from collections.abc import Sequence
from pathlib import Path

from qgf_jax.cli import RUNS, Parser
from qgf_jax.runtime import paths


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `report.write`, or `report.compare` with --out."""
    parser = Parser(
        prog="qgf report",
        description="Writes tables, plots and one HTML page to WORKDIR/report and prints the table.",
        epilog="example: qgf report --workdir=runs/cube\n"
        "several runs: qgf report --workdir=runs/cube,runs/fql,runs/qam --out=comparison",
    )
    parser.add_argument(
        "--workdir",
        type=_paths,
        required=True,
        help="run folder, or several for one table",
        metavar="WORKDIR,…",
    )
    parser.add_argument(
        "--out", type=paths.expand, help="where the table of several runs goes: OUT.md and OUT.csv"
    )
    flags = parser.parse_args(arguments)
    workdirs = flags.workdir
    if len(workdirs) > 1 and not flags.out:
        parser.error("several run folders need --out")
    from qgf_jax.report import report

    print(report.compare(workdirs, flags.out) if flags.out else report.write(*workdirs))


def _paths(text: str) -> list[Path]:
    """An argparse type: "a,b" as two paths, but as one if there is a file or folder of that name."""
    return [paths.expand(one) for one in paths.split(text, ",")]
