"""One command on a machine with an accelerator: is it right, how fast is it, and does all of it run.

    python benchmarks/accelerator.py --minutes=8 --out=accelerator.json

Five stages, each in a process of its own with its share of the time that is left: a right (against a
CPU; repeats itself; goes on after a kill), b fast (updates a second), c acting, d whole (a maze from
nothing to a table; the paper's pretraining), e the public code's update, if --public says where its
checkout is. Every measurement is in the file as soon as it is made, so that a run which is cut off
still tells. Needs neither OGBench nor MuJoCo nor a network. docs/accelerators.md says what keys mean.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stages.record import Deadline, NotAnAcceleratorError, Results, cause, opening, python

NEEDED = (
    "jax", "flax", "optax", "orbax", "ml_collections", "numpy", "tqdm", "xxhash", "matplotlib", "PIL",
)  # fmt: skip
"""Modules without which nothing runs."""
_GRACE = 10.0
"""Seconds for a stage to end by itself, before it is ended."""
_NO_ACCELERATOR = 3
_NO_TIME = "no time was left"
_QUICK = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")
"""Flags with which XLA compiles in a fraction of the time."""


class Stage(NamedTuple):
    """One of the five."""

    title: str
    module: str
    share: float
    """Of the time, among those that are still to come"""
    variables: Mapping[str, str] = types.MappingProxyType({})
    """That are set unless the user has"""


STAGES = {  # in order of worth
    # A second process shares the card with it.
    "a": Stage("right", "right", 0.26, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),
    "b": Stage("fast", "fast", 0.30),
    "c": Stage("acting", "acting", 0.10),
    "d": Stage("whole", "whole", 0.30),
    "e": Stage("public code", "public", 0.04),
}


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python benchmarks/accelerator.py --minutes=8 --out=accelerator.json",
        allow_abbrev=False,
    )
    parser.add_argument("--minutes", type=_minutes, default=8.0, help="for all of it (8)")
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"), help="a new file")
    parser.add_argument(
        "--dry", action="store_true", help="tiny sizes, on a CPU too: does it run at all"
    )
    parser.add_argument("--stages", type=_stages, default=list(STAGES), help="a,b,c,d,e")
    parser.add_argument("--public", type=Path, help="checkout of the public QGF code")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time")
    return value


def _stages(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names or set(names) - set(STAGES):
        raise argparse.ArgumentTypeError(f"{text!r} is not of {','.join(STAGES)}")
    return names


def main(words: list[str]) -> int:
    """The exit code: 0 if all that was asked for is there and right, 2 if nothing could begin."""
    flags = parse(words)
    if flags.stage:
        return run_stage(flags)
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        return refuse(
            f"{', '.join(lacking)} missing: pip install them (docs/accelerators.md: offline)"
        )
    if flags.public and not (flags.public / "agents" / "qgf.py").is_file():
        return refuse(f"{flags.public} is no checkout of the public code: it has no agents/qgf.py")
    if flags.stages == ["e"] and not flags.public:
        return refuse("stage e needs --public=FOLDER, a checkout of the public code")
    if flags.out.exists():
        return refuse(f"{flags.out} is there already: choose another --out")
    flags.out = flags.out.resolve()  # a stage may change its folder
    results = Results(flags.out)
    try:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        results.write(opening(words, flags.minutes, dry=flags.dry))
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        return refuse(f"{flags.out} could not be written: {cause}")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # HUP: a lost connection
        signal.signal(number, _leave)
    started = time.monotonic()
    for name in flags.stages:
        mine = Results(flags.out, name)
        if name == "e" and not flags.public:
            mine.of_stage(title=STAGES[name].title, state="not run", cause="no --public=FOLDER")
            continue
        left = 60 * flags.minutes - (time.monotonic() - started)
        limit = share_of(left, name, flags)
        if limit < 1:
            mine.of_stage(title=STAGES[name].title, state="not run", cause=_NO_TIME)
            continue
        if start_stage(mine, limit, flags) == _NO_ACCELERATOR:
            flags.out.unlink()
            return refuse(
                "JAX sees a CPU alone: --dry tries all of it there in tiny sizes; for a card "
                "install jax[cuda13], for a TPU requirements-tpu.txt"
            )
    results.note(seconds=time.monotonic() - started)
    return tell(results)


def share_of(left: float, name: str, flags: argparse.Namespace) -> float:
    """Seconds for a stage: what is left, divided among it and those after it by their shares."""
    after = flags.stages[flags.stages.index(name) :]
    shares = [STAGES[n].share for n in after if n != "e" or flags.public]
    return left * STAGES[name].share / sum(shares)


def start_stage(results: Results, limit: float, flags: argparse.Namespace) -> int:
    """Runs a stage as a process and writes how it ended: its exit code."""
    stage = STAGES[results.stage]
    variables = {k: v for k, v in stage.variables.items() if k not in os.environ}
    # The reference is a CPU's, and JAX knows one only if it may.
    if (platforms := os.environ.get("JAX_PLATFORMS")) and "cpu" not in platforms:
        variables["JAX_PLATFORMS"] = f"{platforms},cpu"
    if flags.dry:  # what is compiled runs for no time
        given = os.environ.get("XLA_FLAGS", "")
        lacking = [flag for flag in _QUICK if flag.split("=")[0] not in given]
        variables["XLA_FLAGS"] = " ".join([given, *lacking]).strip()
    words = [f"--stage={results.stage}", f"--seconds={limit}", f"--out={flags.out}"]
    words += ["--dry"] * flags.dry + ([f"--public={flags.public}"] if flags.public else [])
    command, environment = python(str(Path(__file__).resolve()), *words, env=variables)
    about = {
        "title": stage.title,
        "state": "running",
        "cause": "",
        "limit_seconds": round(limit, 1),
    }
    results.of_stage(**about)
    print(f"{results.stage} {stage.title}: {limit:.0f} s at most", file=sys.stderr, flush=True)
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            code = process.wait(limit + _GRACE)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # its own processes too, whatever it was that ended the wait
            end(process)
        said.seek(0)
        last = [line.strip() for line in said if line.strip()][-1:]
    state = "done" if code == 0 else "failed"
    why = "" if code == 0 else f"left with {code}: {' '.join(last)[:160]}"
    if code is None:
        state, why = "cut off", f"still running after {limit + _GRACE:.0f} s"
    elif code and code < 0:
        why = f"ended by {signal.Signals(-code).name}: {' '.join(last)[:160]}"
    recorded = results.read()["stages"][results.stage]
    if recorded["state"] == "failed":  # it has said itself why
        state, why = "failed", recorded["cause"]
    results.of_stage(state=state, cause=why, seconds=round(time.monotonic() - started, 1))
    return code or 0


def end(process: subprocess.Popen) -> None:
    """Ends a stage and what it has started, which share a process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_stage(flags: argparse.Namespace) -> int:
    """The stage itself, in its own process."""
    from qgf_jax.runtime import backend, children

    # As `qgf train` begins. Where compile time is measured nothing is taken from the user's cache.
    cached = flags.stage in ("a", "d")
    with contextlib.nullcontext() if cached else children.variable("QGF_CACHE", "off"):
        backend.set_variables()
    backend.tune()
    results, deadline = Results(flags.out, flags.stage), Deadline(flags.seconds)
    options = {"folder": flags.public} if flags.stage == "e" else {}
    try:
        module = importlib.import_module(f"stages.{STAGES[flags.stage].module}")
        module.run(results, deadline, dry=flags.dry, **options)
    except NotAnAcceleratorError:
        return _NO_ACCELERATOR
    except Exception as error:
        results.of_stage(state="failed", cause=cause(error))
        raise
    return 0


def refuse(line: str) -> int:
    """Says why nothing is done."""
    print(f"accelerator.py: error: {line}", file=sys.stderr)
    return 2


def _leave(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


def wrong(content: dict[str, Any]) -> list[str]:
    """What is not as it should be, a line each: stages that did not end, checks, failures."""
    found = []
    for name, stage in content["stages"].items():
        if stage["state"] not in ("done", "not run"):
            found.append(f"{name} {stage['title']}: {stage['state']}: {stage['cause']}")
        if stage["cause"] == _NO_TIME:
            found.append(f"{name} {stage['title']}: not run: {_NO_TIME}")
        if name == "a" and (rest := stage["results"].get("left_out")):
            found.append(f"a right: no time for {', '.join(rest)}")
        for what, value in stage["results"].items():
            if isinstance(value, dict) and value.get("ok") is False:
                found.append(f"{name} {what}: not ok: {json.dumps(value)[:160]}")
            if isinstance(value, dict) and "failed" in value:
                found.append(f"{name} {what}: failed: {value['failed']}")
    return found


def tell(results: Results) -> int:
    """Says what was found, and where the rest is: the exit code."""
    content = results.read()
    faults = wrong(content)
    device = (content["device"] or {}).get("kind", "no device")
    states = ", ".join(f"{k} {v['state']}" for k, v in content["stages"].items())
    print(f"{device}: {states}; {results.path}", file=sys.stderr)
    for line in faults:
        print(line, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
