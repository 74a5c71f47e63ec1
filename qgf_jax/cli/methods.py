"""qgf methods"""

import json
from collections.abc import Sequence

from qgf_jax.cli import Parser
from qgf_jax.methods import costs
from qgf_jax.methods.table import METHODS, served_by


def main(arguments: Sequence[str]) -> None:
    """Prints the table of methods."""
    parser = Parser(
        prog="qgf methods",
        description="Lists the methods: the cost of one action relative to QGF (matrix products of the\n"
        "compiled program, three layers of 256), what has to be trained (a policy learner or\n"
        "more, with a critic), the parameters that acting reads, what it does, and whose it is.",
    )
    parser.add_argument("--json", action="store_true", help="as a JSON list of objects")
    flags = parser.parse_args(arguments)
    counted = costs.read()
    rows = [
        {
            "name": name,
            **row._asdict(),
            "options": dict(row.options),
            **counted[name],
            "served_by": served_by(name),
        }
        for name, row in METHODS.items()
    ]
    if flags.json:
        print(json.dumps(rows, indent=1))
        return
    head = ("name", "cost", "trains", "acts with", "what it does", "source")
    cells = [head]
    for name, row in METHODS.items():
        found = counted[name]
        trains = f"{' + '.join(row.policies)}; {' or '.join(row.critics)}"
        number = f" (N = {row.best_of[0]})" if row.best_of[0] > 1 else ""
        needs = " + ".join(found["needs"])
        cells.append((name, f"{found['cost']:.2f}", trains, needs, row.about + number, row.source))
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    for line in cells:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(text.rstrip())
