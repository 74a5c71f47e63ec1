"""qgf analyze"""

import argparse
import os
from collections.abc import Sequence

from qgf_guide.bounds import Count, Index, Weights
from qgf_jax.analysis.table import ANALYSES, Analysis
from qgf_jax.cli import RUNS, Parser
from qgf_jax.data.load import Loaded
from qgf_jax.errors import UserError
from qgf_jax.methods.table import Method
from qgf_jax.runs.run import Run
from qgf_jax.runtime import paths

_STATES = 128


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `analyze`."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    row = _row(flags.analysis)
    _check(flags, row)
    methods = _methods(flags.methods)
    # All that can be wrong with folder and data is found before JAX is imported.
    run = Run.open(flags.workdir) if row.has_run else None
    data = Loaded.of_run(run) if run and row.reads_data else None
    if flags.analysis == "compute":
        os.environ["JAX_PLATFORMS"] = "cpu"  # what operations are counted for
    from qgf_jax.analysis.analyze import analyze

    out = flags.out or flags.workdir / "analysis"
    given = {name: getattr(flags, name) for name in ("other", "step")}
    found = analyze(
        flags.analysis,
        flags.workdir,
        out,
        data=data,
        states=flags.states or _STATES,
        methods=methods,
        weights=flags.weights or (),
        **given,
    )
    print("\n".join(map(str, found)))


def _row(name: str) -> Analysis:
    if name not in ANALYSES:
        raise UserError.unknown("analysis", name, ANALYSES)
    return ANALYSES[name]


def _check(flags: argparse.Namespace, row: Analysis) -> None:
    """Raises `UserError` for a flag that the analysis lacks, or that it has no use for."""
    name = flags.analysis
    if row.has_run and flags.workdir is None:
        raise UserError(f"analyze {name} needs a run: give its folder, `qgf analyze {name} RUN`")
    if not row.has_run and flags.workdir is not None:
        raise UserError(f"analyze {name} is of no run: leave {flags.workdir} out, and give --out")
    if not row.has_run and flags.out is None:
        raise UserError(f"analyze {name} has no run folder to write to: give --out=FOLDER")
    for flag in ("states", "step", "methods", "weights", "other"):
        if getattr(flags, flag) is not None and flag not in row.takes:
            raise UserError(f"analyze {name} has no use for --{flag}: leave it out")


def _methods(text: str | None) -> list[str]:
    """The methods in a list with commas. Raises `UserError` for one that there is not."""
    names = text.split(",") if text else []
    for name in names:
        Method.parse(name)
    return names


def _parser() -> Parser:
    lines = "\n".join(f"  {name:12} {row.about}" for name, row in ANALYSES.items())
    parser = Parser(
        prog="qgf analyze",
        description="Measures what guidance does to the actions of a trained run. Plays nothing.\n"
        f"Writes NAME.json and NAME.png to RUN/analysis.\n\n{lines}",
        epilog="example: qgf analyze kl runs/cube\n         qgf analyze toy --out=toy",
    )
    parser.add_argument("analysis", metavar="NAME", help="one of those above")
    parser.add_argument("workdir", metavar="RUN", nargs="?", type=paths.expand, help="run folder")
    parser.add_argument("--out", type=paths.expand, help="folder for both files")
    parser.add_argument(
        "--methods", help="what acts, as `qgf evaluate` writes it; else what docs/analysis.md says"
    )
    parser.add_argument(
        "--weights",
        type=Weights,
        help="guidance weights; else the config's and those played, with the means between",
    )
    parser.add_argument("--states", type=Count, help=f"drawn from the data; else {_STATES}")
    parser.add_argument("--other", type=paths.expand, help="a run whose critic judges too")
    parser.add_argument("--step", type=Index, help="checkpoint; else the newest sound one")
    parser.add_cpu_threads()
    return parser
