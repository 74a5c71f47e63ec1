"""qgf collect"""

import os
from collections.abc import Sequence

from qgf_guide.bounds import Count, Seed
from qgf_jax.cli import RUNS, Parser
from qgf_jax.envs.families import SIMULATORS
from qgf_jax.errors import one_line, saving
from qgf_jax.runtime import paths


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `data.collect.collect`."""
    parser = Parser(
        prog="qgf collect",
        description="Makes NAME.npz and NAME-val.npz (a tenth as many episodes) with the scripted\n"
        "experts of the benchmark: pointmaze-* (navigate, stitch, explore), cube-*, scene\n"
        "and puzzle-* (play, noisy); or with those of another family, FAMILY:NAME.",
        epilog="example: qgf collect --env=cube-single-play-v0 --episodes=250 --out=data",
    )
    parser.add_argument("--env", required=True, help="dataset to make, such as cube-single-play-v0")
    parser.add_argument(
        "--episodes", type=Count, default=1000, help="episodes of the training file"
    )
    parser.add_argument("--seed", type=Seed, default=0, help="same seed, same file")
    parser.add_argument("--out", type=paths.expand, default="data", help="folder to write to")
    parser.add_argument("--workers", type=Count, default=os.cpu_count(), help="processes")
    parser.add_argument(
        "--simulator",
        default="mujoco",
        choices=SIMULATORS,
        help="jax: pointmaze-* on the device in seconds, an approximation that needs no MuJoCo",
    )
    flags = parser.parse_args(arguments)
    from qgf_jax.data.collect import collect

    with saving(flags.out):
        files = collect(
            flags.env,
            flags.episodes,
            flags.out,
            seed=flags.seed,
            workers=flags.workers,
            simulator=flags.simulator,
        )
    print("\n".join(one_line(str(file)) for file in files))
