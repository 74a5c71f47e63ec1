"""qgf verify"""

import json
from collections.abc import Sequence
from pathlib import Path

from qgf_jax import run
from qgf_jax.checkpoint import Checkpoints
from qgf_jax.cli import Parser
from qgf_jax.data import shards
from qgf_jax.data.formats import MANIFEST
from qgf_jax.errors import UserError


def main(arguments: Sequence[str]) -> None:
    """Compares every checkpoint with its seal, or converted data with theirs; needs no JAX."""
    parser = Parser(
        prog="qgf verify",
        description="Checks the checkpoints of a run, or converted data, without JAX.",
    )
    parser.add_argument("workdir", help="run folder, or one that `qgf convert` has made")
    flags = parser.parse_args(arguments)
    if (Path(flags.workdir) / MANIFEST).is_file():
        if fault := shards.fault(Path(flags.workdir)):
            raise UserError(fault)
        print(json.dumps({"data": flags.workdir, "sound": True}))
        return
    identity = run.open_run(flags.workdir).identity
    checkpoints = Checkpoints(Path(flags.workdir), identity=identity)
    steps = checkpoints.steps()
    faults = {step: fault for step in steps if (fault := checkpoints.fault(step))}
    for step in steps:
        line: dict[str, object] = {"step": step, "sound": step not in faults}
        if step not in faults:
            line["state"] = checkpoints.digest(step)
        print(json.dumps(line))
    if not steps:
        raise UserError(f"{flags.workdir} has no sealed checkpoint: let `qgf train` finish")
    if faults:
        step, fault = next(iter(faults.items()))
        raise UserError(f"{flags.workdir}: checkpoint {step}: {fault}: remove it")
