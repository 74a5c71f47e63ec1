"""qgf calibrate"""

import json
from collections.abc import Sequence

from qgf_jax.cli import RUNS, Parser
from qgf_jax.data.load import Loaded
from qgf_jax.runs.judge import check_judge
from qgf_jax.runs.locks import TRAINING
from qgf_jax.runs.run import Run
from qgf_jax.runs.weights import check_can_be_evaluated
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
    parser.add_argument(
        "--judge",
        metavar="RUN",
        type=paths.expand,
        help="a run on other trajectories of the same environment, whose critic judges the guided "
        "actions: for agree and trust (docs/guidance.md)",
    )
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="let a critic for each of some weights learn what qgf earns under it, for the criterion "
        "evaluated: minutes in place of seconds",
    )
    parser.add_cpu_threads()
    flags = parser.parse_args(arguments)
    # All that can be wrong with folder and data is found before JAX is imported.
    run = Run.open(flags.workdir)
    TRAINING.check_free(run.trained_in)
    if flags.judge is not None:
        check_judge(run, Run.open(flags.judge))
    if flags.evaluate:
        check_can_be_evaluated(run)
    data = Loaded.of_run(run)
    from qgf_jax.training.weights import choose_weights

    chosen = choose_weights(flags.workdir, data, judge=flags.judge, evaluate=flags.evaluate)
    print(json.dumps(chosen))
