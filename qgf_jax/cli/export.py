"""qgf export"""

from collections.abc import Sequence

from qgf_guide.bounds import Count, Index
from qgf_jax.cli import RUNS, Parser
from qgf_jax.errors import UserError, one_line
from qgf_jax.interop.export.table import FORMATS, Format, export
from qgf_jax.methods.table import Method
from qgf_jax.runs.run import Run
from qgf_jax.runtime import paths

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `export`."""
    flags = _parser().parse_args(arguments)
    special = {k: getattr(flags, k) for k in ("method", "best_of", "batch", "platforms")}
    to = "jax.export" if flags.to == "jax" else flags.to
    Format.check(to, special)
    method, options = Method.parse(flags.method or "qgf")
    Run.open(flags.workdir)  # what is wrong with the folder is found before JAX is imported
    more = {k: getattr(flags, k) for k in ("best_of", "seed", "step", "batch")}
    more |= {"method": method, "options": options, "platforms": flags.platforms or ()}
    path = export(flags.workdir, to, flags.out, **more)
    print(one_line(str(path)))


def _platforms(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in _PLATFORMS:
            raise UserError.unknown("platform", name, _PLATFORMS)
    return names


def _parser() -> Parser:
    lines = "\n".join(f"  {name:12} {row.about}" for name, row in FORMATS.items())
    parser = Parser(
        prog="qgf export",
        description="Writes a checkpoint as one file that programs without this package read, and\n"
        f"FILE.json beside it, which says what it is of. docs/restore_elsewhere.md has a reader\n"
        f"for each format.\n\n{lines}",
        epilog="example: qgf export runs/cube --to=jax.export --method=qgf\n"
        "         qgf export runs/cube --to=onnx --method=qgf:schedule=ratio --out=policy.onnx",
    )
    parser.add_argument("workdir", metavar="RUN", type=paths.expand, help="run folder")
    parser.add_argument("--to", required=True, metavar="FORMAT", help="one of those above")
    parser.add_argument("--out", type=paths.expand, help="the file; else in RUN/export")
    parser.add_argument("--method", help="what acts, as `qgf evaluate` writes it; else qgf")
    parser.add_argument("--best_of", type=Count, help="candidates; else the method's own number")
    parser.add_argument("--seed", type=Index, default=0, help="place of a seed in the run")
    parser.add_argument("--step", type=Index, help="checkpoint; else the newest sound one")
    parser.add_argument(
        "--batch", type=Count, help="observations of a call, if not any number of them"
    )
    parser.add_argument(
        "--platforms", type=_platforms, help="of jax.export, with commas; else cpu,cuda,tpu"
    )
    parser.add_cpu_threads()
    return parser
