"""qgf methods"""

import json
from collections.abc import Sequence

from qgf_jax.algorithms import METHODS, served_by
from qgf_jax.cli import Parser


def main(arguments: Sequence[str]) -> None:
    """Prints the table of methods."""
    parser = Parser(prog="qgf methods", description="Lists the methods.")
    parser.add_argument("--json", action="store_true", help="as a JSON list of objects")
    flags = parser.parse_args(arguments)
    rows = [
        {"name": name, **row._asdict(), "options": dict(row.options), "served_by": served_by(name)}
        for name, row in METHODS.items()
    ]
    if flags.json:
        print(json.dumps(rows, indent=1))
    else:
        width = max(map(len, METHODS))
        print("\n".join(f"{row['name']:{width}}  {row['about']}" for row in rows))
