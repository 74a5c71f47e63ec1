"""qgf import-official"""

import json
from collections.abc import Sequence

from qgf_jax import config as configs
from qgf_jax.cli import Parser, path
from qgf_jax.interop import import_official as official
from qgf_jax.runs import run


def main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `official.import_run`."""
    parser = Parser(
        prog="qgf import-official",
        description="Makes a run folder of a checkpoint of the public QGF code (its qgf agent), for\n"
        "`qgf evaluate`. The file is a pickle; it is read as data, and nothing in it is run. The\n"
        "config says environment, chunk and widths, under the preset `paper` unless told otherwise.",
        epilog="example: qgf import-official exp/…/params_500000.pkl "
        "--config=experiments/configs/paper.py:cube_triple --workdir=runs/c3",
    )
    parser.add_argument("params", type=path, help="a params_N.pkl")
    parser.add_argument("--config", required=True, help="PATH.py[:variant]")
    parser.add_argument("--workdir", type=path, required=True, help="run folder to make")
    parser.add_cpu_threads()
    flags, rest = parser.parse_known_args(arguments)
    config = configs.load(flags.config, {"preset": "paper"} | configs.parse_overrides(rest))
    resolved, workdir = configs.plain(config), flags.workdir
    run.check_free(workdir)
    print(json.dumps({"workdir": str(official.import_run(flags.params, resolved, workdir))}))
