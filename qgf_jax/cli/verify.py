"""qgf verify"""

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from qgf_jax.cli import RUNS, Parser
from qgf_jax.data.converted import Manifest
from qgf_jax.data.replay import replay
from qgf_jax.data.shards import Source
from qgf_jax.errors import UserError
from qgf_jax.runs.checkpoint import UNMERGED, Checkpoints
from qgf_jax.runs.locks import TRAINING
from qgf_jax.runs.run import Run
from qgf_jax.runs.weights import ChosenWeights
from qgf_jax.runtime import paths


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Compares every checkpoint with its seal, or converted data with their manifest; needs no JAX."""
    parser = Parser(
        prog="qgf verify",
        description="Checks the checkpoints of a run, or converted data, without JAX.",
        epilog="example: qgf verify --replay data/cube-single-play-v0.npz "
        "--env=cube-single-play-singletask-v0\n"
        "plays transitions again from the states that the data recorded (qpos, qvel)",
    )
    parser.add_argument(
        "workdir",
        type=paths.expand,
        help="run folder, or one that `qgf convert` has made; with --replay an npz file too",
    )
    parser.add_argument(
        "--replay",
        action="store_true",
        help="whether transitions of the data lead to the same in the environment --env",
    )
    parser.add_argument("--env", help="the environment that data are replayed in")
    parser.add_argument(
        "--rescue",
        action="store_true",
        help="first mend checkpoints that an earlier version saved below a path such as 'a[b]'",
    )
    flags = parser.parse_args(arguments)
    if flags.replay != (flags.env is not None):
        parser.error("--replay and --env go together: name the data's environment")
    if flags.replay:
        with contextlib.redirect_stdout(sys.stderr):  # what an environment prints is none of ours
            found = replay(flags.workdir, flags.env)
        print(json.dumps(found))
        return
    if Manifest.is_in(flags.workdir):
        if why := Manifest.read(flags.workdir).why_invalid():
            raise UserError(why)
        Source.open(flags.workdir)
        print(json.dumps({"data": str(flags.workdir), "sound": True}))
        return
    _verify(flags.workdir, rescue=flags.rescue)


def _verify(workdir: Path, *, rescue: bool) -> None:
    run = Run.open(workdir)
    checkpoints = Checkpoints(run.trained_in, identity=run.identity)
    if rescue:
        with TRAINING.lock(run.trained_in):
            _rescue(checkpoints)
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{workdir} has no sealed checkpoint: let `qgf train` finish")
    faults = {step: checkpoints.why_invalid(step) for step in steps}
    for step, why in faults.items():
        about = {"fault": why} if why else {"state": checkpoints.digest(step)}
        print(json.dumps({"step": step, "sound": not why, **about}))
    if chosen := ChosenWeights.read(run.trained_in):
        current = chosen.step in steps and checkpoints.digest(chosen.step) == chosen.state
        print(json.dumps({"weights of": chosen.step, "sound": True, "current": current}))
    _refuse(workdir, faults)


def _refuse(workdir: Path, faults: Mapping[int, str]) -> None:
    """Raises `UserError` if a step has a fault; first for one that `--rescue` cannot mend."""
    for step, why in faults.items():
        if why not in ("", UNMERGED):
            raise UserError(f"{workdir}: checkpoint {step}: {why}: remove it")
    if unmerged := [str(step) for step, why in faults.items() if why]:
        raise UserError(f"{workdir}: checkpoint {', '.join(unmerged)}: {UNMERGED}")


def _rescue(checkpoints: Checkpoints) -> None:
    """Rescues every step that can be, and then raises the first error."""
    errors = []
    for step in checkpoints.steps():
        if checkpoints.why_invalid(step) == UNMERGED:
            try:
                checkpoints.rescue(step)
            except UserError as error:
                errors.append(error)
    if errors:
        raise errors[0]
