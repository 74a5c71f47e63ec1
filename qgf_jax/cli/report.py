"""qgf report"""

from collections.abc import Sequence

from qgf_jax.cli import Parser


def main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `report.write`."""
    parser = Parser(
        prog="qgf report",
        description="Writes tables, plots and one HTML page to WORKDIR/report and prints the table.",
        epilog="example: qgf report --workdir=runs/cube",
    )
    parser.add_argument("--workdir", required=True, help="run folder")
    flags = parser.parse_args(arguments)
    from qgf_jax import report

    print(report.write(flags.workdir))
