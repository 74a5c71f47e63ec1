"""qgf report"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qgf_guide.bounds import Counts
from qgf_jax.cli import RUNS, Parser
from qgf_jax.runtime import paths
from qgf_jax.sweep import plan as sweep

if TYPE_CHECKING:
    from qgf_jax.report.tuned import TunedKey


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `report.write`, `site.write`, `report.compare` or `record.write`."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    _open_sweeps(flags)
    _check(parser, flags)
    print(_made(flags, flags.runs or flags.workdir))


def _parser() -> Parser:
    parser = Parser(
        prog="qgf report",
        description="Writes tables, plots and HTML pages to RUN/report and prints the table.\n"
        "With --out, a site of one run or several in a folder of its own.",
        epilog="example: qgf report runs/cube\n"
        "a site of several runs: qgf report runs/* --out=site\n"
        "of all runs of a sweep: qgf report runs/sweep\n"
        "one table of several runs: qgf report --workdir=runs/cube,runs/fql,runs/qam --out=comparison\n"
        "a run for each value of a hyperparameter: qgf report runs/sweep --tuned=-policy.alpha\n"
        "a run for each task: qgf report runs/task1 runs/task2 --select_on=2 --out=cube\n"
        "to publish: qgf report --workdir=runs/cube --record=results/cube --machine=here \\\n"
        "    --command='qgf train …' --command='qgf evaluate …'\n"
        "and again: qgf report --workdir=results/cube",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=paths.expand,
        metavar="RUN",
        help="run folder or the record of one; the folder of a sweep: all of its runs",
    )
    parser.add_argument(
        "--workdir",
        type=_paths,
        help="the same as one word; several, with --out, for one table and no site",
        metavar="WORKDIR,…",
    )
    parser.add_argument(
        "--out",
        type=paths.expand,
        help="the folder of the site; with --workdir, where its table goes: OUT.md, OUT.csv, OUT.json",
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
    _add_tuned(parser)
    _add_record(parser)
    return parser


def _add_tuned(parser: Parser) -> None:
    def keys(text: str) -> "tuple[TunedKey, ...]":
        from qgf_jax.report.tuned import TunedKey  # NumPy, which --help should not wait for

        return TunedKey.parse(text)

    parser.add_argument(
        "--tuned",
        type=keys,
        default=(),
        help="runs that differ in these keys of the config alone are configurations of one row: the "
        "selection episodes choose one, as a weight is chosen; of what noise does not tell apart that "
        "with the smallest value, or with the largest of a key after a minus, as -policy.alpha",
        metavar="[-]KEY,…",
    )


def _open_sweeps(flags: argparse.Namespace) -> None:
    """Puts its runs in the place of a sweep's folder; a lone one is reported in its folder report."""
    given = flags.runs
    found = [run for path in given for run in _runs_of(path)]
    if found != given and len(given) == 1 and not flags.record:
        flags.out = flags.out or given[0] / "report"
    flags.runs = found or given


def _runs_of(path: Path) -> list[Path]:
    """Those of a sweep's folder; a run's folder itself; none of what else a sweep's folder has."""
    if (path / sweep.FILE).is_file():
        return sorted(one.parent for one in path.glob("*/config.json"))
    if (path / "config.json").is_file() or not (path.parent / sweep.FILE).is_file():
        return [path]
    return []  # it is the sweep's own, as RUNS/* names it


def _check(parser: Parser, flags: argparse.Namespace) -> None:
    """Ends the program if flags do not go together."""
    if bool(flags.runs) == bool(flags.workdir):
        parser.error("give run folders, either as words or by --workdir")
    several = len(flags.runs or flags.workdir) > 1
    if not flags.record and any([flags.command, flags.machine]):
        parser.error("--command and --machine belong to --record")
    if flags.record and any([several, flags.out, flags.baseline, flags.select_on, flags.tuned]):
        parser.error(
            "--record takes one run folder, and neither --out, --baseline, --select_on nor --tuned"
        )
    if flags.tuned and flags.select_on:
        parser.error("--tuned chooses for each task by itself: leave --select_on out")
    if flags.tuned and not several:
        parser.error("--tuned chooses one of several runs: give them all, or the folder of a sweep")
    if several and not flags.out:
        parser.error("several run folders need --out")


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


def _made(flags: argparse.Namespace, workdirs: Sequence[Path]) -> str:
    if flags.record:
        from qgf_jax.report import record

        machine = record.Machine.parse(flags.machine) if flags.machine else None
        return record.write(*workdirs, flags.record, flags.command or (), machine)
    from qgf_jax.report import report, site

    select_on = tuple(dict.fromkeys(flags.select_on))
    if flags.out and flags.runs:
        return site.write(workdirs, flags.out, flags.baseline, select_on, flags.tuned)
    if flags.out:
        return report.compare(workdirs, flags.out, flags.baseline, select_on, flags.tuned)
    return report.write(*workdirs, baseline=flags.baseline, select_on=select_on)


def _paths(text: str) -> list[Path]:
    """An argparse type: "a,b" as two paths, but as one if there is a file or folder of that name."""
    return [paths.expand(one) for one in paths.split(text, ",")]
