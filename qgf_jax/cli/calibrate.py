"""qgf calibrate"""

import json
from collections.abc import Sequence

from qgf_jax.cli import RUNS, Parser
from qgf_jax.data.load import Loaded
from qgf_jax.runs.locks import TRAINING
from qgf_jax.runs.run import Run
from qgf_jax.runtime import paths


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `choose_weights`."""
    parser = Parser(
        prog="qgf calibrate",
        description="Chooses a guidance weight for a trained run from its data alone: nothing is\n"
        "played. Each criterion chooses one of its own; none of them is validated. Writes\n"
        "WORKDIR/weights.json and weights.npz (all curves), which belong to the newest\n"
        "checkpoint, and prints the weights, one for each seed.",
        epilog="example: qgf calibrate runs/cube\n"
        "         qgf evaluate --workdir=runs/cube --methods=qgf_auto,qgf_auto:by=typical",
    )
    parser.add_argument("workdir", type=paths.expand, help="run folder")
    parser.add_cpu_threads()
    flags = parser.parse_args(arguments)
    # All that can be wrong with folder and data is found before JAX is imported.
    run = Run.open(flags.workdir)
    TRAINING.check_free(run.trained_in)
    data = Loaded.of_run(run)
    from qgf_jax.training.weights import choose_weights

    print(json.dumps(choose_weights(flags.workdir, data)))
