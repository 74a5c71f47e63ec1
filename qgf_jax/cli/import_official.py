"""qgf import-official"""

import json
from collections.abc import Sequence

from qgf_jax import config as configs
from qgf_jax.cli import RUNS, Parser
from qgf_jax.interop.import_official import import_run
from qgf_jax.runs.locks import TRAINING
from qgf_jax.runtime import paths


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `import_run`."""
    parser = Parser(
        prog="qgf import-official",
        description="Makes a run folder for `qgf evaluate` from a checkpoint of the public QGF code\n"
        "(its qgf agent). The file is a pickle; it is read as data, and nothing in it is run. The\n"
        "config gives environment, chunk and widths; its preset is `paper` unless you choose another.",
        epilog="example: qgf import-official exp/…/params_500000.pkl "
        "--config=experiments/configs/paper.py:cube_triple --workdir=runs/c3",
    )
    parser.add_argument("params", type=paths.expand, help="a params_N.pkl")
    parser.add_argument("--config", required=True, help="PATH.py[:variant]")
    parser.add_argument("--workdir", type=paths.expand, required=True, help="run folder to make")
    parser.add_cpu_threads()
    flags, rest = parser.parse_known_args(arguments)
    config = configs.load(flags.config, {"preset": "paper"} | Parser.parse_overrides(rest))
    resolved, workdir = configs.plain(config), flags.workdir
    TRAINING.check_free(workdir)
    print(json.dumps({"workdir": str(import_run(flags.params, resolved, workdir))}))
