"""qgf convert"""

from collections.abc import Sequence

from qgf_jax.cli import RUNS, Parser
from qgf_jax.errors import one_line
from qgf_jax.runtime import paths


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `data.convert.convert`."""
    flags = _parser().parse_args(arguments)
    from qgf_jax.data.convert import convert
    from qgf_jax.data.readers.recording import Choice

    observations = tuple(key for key in flags.observations.split(",") if key)
    choice = Choice(observations, flags.actions, flags.ends, flags.split)
    folders = convert(flags.source, flags.out, name=flags.name, choice=choice)
    print("\n".join(one_line(str(folder)) for folder in folders))


def _parser() -> Parser:
    parser = Parser(
        prog="qgf convert",
        description="Writes a dataset, once and for all, as a folder of plain .npy files, one per\n"
        "field, with a manifest; likewise its validation data. Training from it starts at once\n"
        "and can stream it.",
        epilog="sources:\n"
        "  minari:ID           a local Minari dataset, as minari:mujoco/hopper/medium-v0\n"
        "  d4rl:FILE.hdf5      D4RL's layout\n"
        "  robomimic:FILE.hdf5 its masks train and valid become data and validation data\n"
        "  lerobot:FOLDER      codebase 2.1 or 3.0\n"
        "  npz:FILE.npz        the benchmark's own, or steps with terminated and truncated\n"
        "  NAME.npz, NAME      the same, or a folder of the benchmark's slices\n"
        "docs/data.md says what is taken of each.\n"
        "example: qgf convert downloads/cube-triple-play-100m-v0 --out=data",
    )
    parser.add_argument("source", help="what to read; it is not touched")
    parser.add_argument(
        "--out", type=paths.expand, default="data", help="folder to make the folder NAME in"
    )
    parser.add_argument("--name", default="", help="another NAME than the source's")
    parser.add_argument(
        "--observations",
        default="",
        help="keys whose numbers make an observation, in this order, as arm,object; by default all",
    )
    parser.add_argument("--actions", default="", help="key of the actions, as actions_abs")
    parser.add_argument(
        "--ends",
        choices=("terminated", "truncated"),
        default="",
        help="what the end of an episode means where the source does not say",
    )
    parser.add_argument("--split", default="", help="a part of the episodes alone, as valid")
    return parser
