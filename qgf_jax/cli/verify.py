"""qgf verify"""

import json
from collections.abc import Sequence
from pathlib import Path

from qgf_jax.cli import Parser, path
from qgf_jax.data import shards
from qgf_jax.data.formats import MANIFEST
from qgf_jax.errors import UserError
from qgf_jax.runs import run
from qgf_jax.runs.checkpoint import UNMERGED, Checkpoints


def main(arguments: Sequence[str]) -> None:
    """Compares every checkpoint with its seal, or converted data with theirs; needs no JAX."""
    parser = Parser(
        prog="qgf verify",
        description="Checks the checkpoints of a run, or converted data, without JAX.",
    )
    parser.add_argument("workdir", type=path, help="run folder, or one that `qgf convert` has made")
    parser.add_argument(
        "--rescue",
        action="store_true",
        help="first mend what an earlier version has saved below a path with brackets or the like",
    )
    flags = parser.parse_args(arguments)
    if (flags.workdir / MANIFEST).is_file():
        if fault := shards.fault(flags.workdir):
            raise UserError(fault)
        print(json.dumps({"data": str(flags.workdir), "sound": True}))
        return
    _verify(flags.workdir, rescue=flags.rescue)


def _verify(workdir: Path, *, rescue: bool) -> None:
    opened = run.open_run(workdir)
    checkpoints = Checkpoints(opened.trained_in, identity=opened.identity)
    if rescue:
        _rescue(opened.trained_in, checkpoints)
    steps = checkpoints.steps()
    faults = {step: fault for step in steps if (fault := checkpoints.fault(step))}
    for step in steps:
        about = {"fault": faults[step]} if step in faults else {"state": checkpoints.digest(step)}
        print(json.dumps({"step": step, "sound": step not in faults, **about}))
    if not steps:
        raise UserError(f"{workdir} has no sealed checkpoint: let `qgf train` finish")
    for step, fault in faults.items():
        if fault != UNMERGED:
            raise UserError(f"{workdir}: checkpoint {step}: {fault}: remove it")
    if faults:
        raise UserError(f"{workdir}: checkpoint {', '.join(map(str, faults))}: {UNMERGED}")


def _rescue(workdir: Path, checkpoints: Checkpoints) -> None:
    errors = []
    with run.only_writer(workdir):
        for step in checkpoints.steps():
            if checkpoints.fault(step) == UNMERGED:
                try:
                    checkpoints.rescue(step)
                except UserError as error:
                    errors.append(error)
    if errors:
        raise errors[0]
