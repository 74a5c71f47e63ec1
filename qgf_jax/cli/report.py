"""qgf report"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from qgf_jax.bounds import Counts
from qgf_jax.cli import RUNS, Parser
from qgf_jax.runtime import paths


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `report.write`, `report.compare` with --out, or `record.write`."""
    parser = Parser(
        prog="qgf report",
        description="Writes tables, plots and one HTML page to WORKDIR/report and prints the table.",
        epilog="example: qgf report --workdir=runs/cube\n"
        "several runs: qgf report --workdir=runs/cube,runs/fql,runs/qam --out=comparison\n"
        "a run for each task: qgf report --workdir=runs/task1,runs/task2 --select_on=2 --out=cube\n"
        "to publish: qgf report --workdir=runs/cube --record=results/cube --machine=here \\\n"
        "    --command='qgf train …' --command='qgf evaluate …'\n"
        "and again: qgf report --workdir=results/cube",
    )
    parser.add_argument(
        "--workdir",
        type=_paths,
        required=True,
        help="run folder or the record of one, or several for one table",
        metavar="WORKDIR,…",
    )
    parser.add_argument(
        "--out", type=paths.expand, help="where the table of several runs goes: OUT.md and OUT.csv"
    )
    parser.add_argument(
        "--baseline",
        metavar="ARM",
        help="what all rows are compared with, as tables write it, such as reference or best_of; else "
        "best of 4 by the run's own critic, or the reference",
    )
    parser.add_argument(
        "--select_on",
        type=Counts,
        default=(),
        help="tasks whose selection episodes choose one weight for all tasks of an environment, such as "
        "2,4; else each task's own, or all of a run's",
        metavar="TASK,…",
    )
    _add_record(parser)
    flags = parser.parse_args(arguments)
    workdirs = flags.workdir
    if flags.record is None and (flags.command or flags.machine):
        parser.error("--command and --machine belong to --record")
    others = flags.out or flags.baseline or flags.select_on
    if flags.record and (len(workdirs) > 1 or others):
        parser.error("--record takes one run folder, and neither --out, --baseline nor --select_on")
    if len(workdirs) > 1 and not flags.out:
        parser.error("several run folders need --out")
    print(_made(flags))


def _add_record(parser: Parser) -> None:
    parser.add_argument(
        "--record",
        type=paths.expand,
        help="write no report but this folder, a few KB to publish: the episodes, the config and where "
        "they come from; `qgf report` reads it as it reads the run",
    )
    parser.add_argument(
        "--command",
        action="append",
        help="a command that made the run, for its record; once for each",
        metavar="COMMAND",
    )
    parser.add_argument(
        "--machine",
        help="what the run was made on, for its record: CORES,CPU, or here for this machine",
        metavar="CORES,CPU|here",
    )


def _made(flags: argparse.Namespace) -> str:
    if flags.record:
        from qgf_jax.report import record

        machine = record.Machine.parse(flags.machine) if flags.machine else None
        return record.write(*flags.workdir, flags.record, flags.command or (), machine)
    from qgf_jax.report import report

    select_on = tuple(dict.fromkeys(flags.select_on))
    if flags.out:
        return report.compare(flags.workdir, flags.out, flags.baseline, select_on)
    return report.write(*flags.workdir, baseline=flags.baseline, select_on=select_on)


def _paths(text: str) -> list[Path]:
    """An argparse type: "a,b" as two paths, but as one if there is a file or folder of that name."""
    return [paths.expand(one) for one in paths.split(text, ",")]
