"""qgf convert"""

from collections.abc import Sequence

from qgf_jax.cli import Parser
from qgf_jax.errors import one_line
from qgf_jax.runtime import paths


def main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `data.convert.convert`."""
    parser = Parser(
        prog="qgf convert",
        description="Unpacks NAME.npz, or a folder NAME of npz slices, once and for all into a folder\n"
        "of plain .npy files, one per field, with a manifest; likewise their -val twins.\n"
        "Training from it starts at once and can stream it.",
        epilog="example: qgf convert downloads/cube-triple-play-100m-v0 --out=data",
    )
    parser.add_argument(
        "source", type=paths.expand, help="NAME.npz or a folder NAME; it is not touched"
    )
    parser.add_argument(
        "--out", type=paths.expand, default="data", help="folder to make the folder NAME in"
    )
    flags = parser.parse_args(arguments)
    from qgf_jax.data.convert import convert

    print("\n".join(one_line(str(folder)) for folder in convert(flags.source, flags.out)))
