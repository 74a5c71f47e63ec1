"""qgf methods"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from qgf_jax.cli import RUNS, Parser
from qgf_jax.methods.table import METHODS, Method
from qgf_jax.training import costs

_HEAD = ("name", "cost", "trains", "acts with", "what it does", "source")
_PAGE = """# Methods

`qgf methods --markdown` writes this page.

Cost: one action relative to QGF, by the matrix products of the compiled program, with three layers
of 256. Trains: policy learners, and the critics that they can be combined with, the method's own first.
Acts with: the parameters that acting reads. N: candidates that an action is chosen from.
"""


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Prints the table of methods."""
    parser = Parser(
        prog="qgf methods",
        description="Lists the methods: the cost of one action relative to QGF (matrix products of the\n"
        "compiled program, three layers of 256), what has to be trained (a policy learner or\n"
        "more, with a critic), the parameters that acting reads, what it does, and its source.\n"
        "Costs are counted once, which takes about a second for each method, and then kept.",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a JSON list of objects")
    form.add_argument("--markdown", action="store_true", help="as the page docs/methods.md")
    flags = parser.parse_args(arguments)
    os.environ["JAX_PLATFORMS"] = (
        "cpu"  # what costs are counted for; and a list takes no accelerator
    )
    counted = costs.read(METHODS)
    if flags.json:
        rows = [_record(name, row) | counted[name] for name, row in METHODS.items()]
        print(json.dumps(rows, indent=1))
    elif flags.markdown:
        print(_page(counted), end="")
    else:
        print("\n".join(_aligned([_HEAD, *_cells(counted)])))


def _page(counted: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown page of all methods, with costs as of `costs.read`."""
    lines = [f"| {' | '.join(line)} |" for line in (_HEAD, ["---"] * len(_HEAD), *_cells(counted))]
    return "\n".join([_PAGE, *lines, ""])


def _record(name: str, row: Method) -> dict[str, Any]:
    """What the table knows of a method and what follows from it."""
    derived = ("critics", "goals", "weighted", "at_zero")
    return {
        "name": name,
        **row._asdict(),
        "options": dict(row.options),
        **{key: getattr(row, key) for key in derived},
        "served_by": Method.named(name).serves,
    }


def _cells(counted: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A line of text cells for each method."""
    cells = []
    for name, row in METHODS.items():
        cost, needs = counted[name]["cost"], counted[name]["needs"]
        trains = f"{' + '.join(row.policies) or 'no policy'}; {' or '.join(row.critics)}"
        number = f" (N = {row.best_of[0]})" if row.best_of[0] > 1 else ""
        unknown = "?" if row.acts else "-"
        cost = unknown if cost is None else f"{cost:.2f}"
        reads = unknown if needs is None else " + ".join(needs)
        cells.append((name, cost, trains, reads, row.about + number, row.source))
    return cells


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
