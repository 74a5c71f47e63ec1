"""qgf sweep"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qgf_guide.bounds import Count, Index, Positive
from qgf_jax.cli import RUNS, Parser
from qgf_jax.errors import UserError, log
from qgf_jax.runtime import paths
from qgf_jax.sweep.engines import OURS, engine_with, engines, function_of
from qgf_jax.sweep.job import Job, Needs
from qgf_jax.sweep.plan import Plan, chosen

_FOLLOW = 2.0  # seconds
_CANCELLED = 120.0  # seconds in which jobs save and end


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Starts a sweep, or does what is asked of one that was started."""
    commands = {"status": _status, "cancel": _cancel, "run-job": _run_job}
    if arguments and arguments[0] in commands:
        commands[arguments[0]](arguments[1:])
    else:
        _start(arguments)


def _start(arguments: Sequence[str]) -> None:
    parser = _parser()
    flags, rest = parser.parse_known_args(arguments)
    options = _engine_options(rest)
    _check_alone(flags)
    if flags.out is None:
        raise UserError("--out is missing: see `qgf sweep --help`")
    jobs = _jobs(flags)
    if flags.only:
        jobs = chosen(jobs, [name for names in flags.only for name in names.split(",")])
    _check_evaluations(jobs)
    make_engine = engine_with(flags.on, options)
    planned, configs = Plan.with_configs(jobs, flags.out, most=flags.pack)
    _check_policies([one.job for one in planned.jobs.values()], configs)
    if flags.pack > 1:
        _say_packed(planned)
    if flags.dry_run:
        _describe(planned, configs, flags)
        return
    from qgf_jax.sweep.launch import launch

    done = launch(planned, make_engine, retries=flags.retries)
    print(json.dumps({"sweep": str(flags.out), **done}))


def _check_alone(flags: Any) -> None:
    """Raises `UserError` for a flag that means nothing without another."""
    for flag, other in {"json": "dry_run", "flops": "dry_run", "flop_rate": "flops"}.items():
        if getattr(flags, flag) and not getattr(flags, other):
            raise UserError(f"--{flag} goes with --{other}: give both, or leave it out")


def _parser() -> Parser:
    parser = Parser(
        prog="qgf sweep",
        description="Runs many jobs, each a training and its evaluations, in folders below --out.\n"
        "The same command again skips what is done and goes on with the rest.\n\n"
        "  qgf sweep status FOLDER    where each job is; --json, --follow\n"
        "  qgf sweep cancel FOLDER    all jobs save and end",
        epilog=f"{_about_engines()}\n\n"
        "example: qgf sweep sweeps/critics.py --out=runs/critics\n"
        "         qgf sweep --config=experiments/configs/smoke.py --grid seed=0..3 --out=runs/smoke",
    )
    parser.add_argument("file", nargs="?", help="a Python file with jobs() -> list[Job]")
    parser.add_argument("--out", type=paths.expand, help="the sweep's folder")
    parser.add_argument("--config", help="PATH.py[:variant], with --grid in the place of a file")
    parser.add_argument(
        "--grid",
        action="append",
        metavar="KEY=VALUES",
        help="a key of the config and its values, a,b or FIRST..LAST; several are combined",
    )
    parser.add_argument(
        "--evaluate",
        action="append",
        metavar="FLAGS",
        help='with --grid: flags of `qgf evaluate`, "--methods=qgf --episodes=50"',
    )
    parser.add_argument(
        "--needs",
        type=Needs.parse,
        help="with --grid: what a job takes, devices=1,cores=1,memory_gib=2,hours=0",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME,…",
        help="of these jobs, and what they wait for; a name may have * and ? as in the shell",
    )
    parser.add_argument(
        "--pack",
        type=Count,
        default=1,
        metavar="N",
        help="up to N successive seeds of a config are trained side by side in one run; 1: each alone",
    )
    parser.add_argument("--on", default="local", help=f"engine: {', '.join(engines())}")
    parser.add_argument("--retries", type=Index, default=3, help="of a job that was killed")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print the jobs, what is done and hours where a rate is known, and stop",
    )
    parser.add_argument(
        "--flops",
        action="store_true",
        help="with --dry_run: count FLOPs and bytes too, which compiles each shape once",
    )
    parser.add_argument(
        "--flop_rate",
        type=Positive,
        help="with --flops: FLOP/s of a job, where nothing has run yet",
    )
    parser.add_argument("--json", action="store_true", help="with --dry_run: as JSON")
    return parser


def _about_engines() -> str:
    """The flags of each engine of this package."""
    from qgf_guide.bounds import Field

    lines = []
    for name in OURS:
        lines.append(f"--on={name}")
        for key, field in Field.declared_in(function_of(name)).items():
            lines.append(f"  --{key}={field.default}: {field.help}")
    return "\n".join(lines)


def _engine_options(words: Sequence[str]) -> dict[str, str]:
    """`--key=value` as {key: value}."""
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not key.startswith("--") or not equals:
            raise UserError(f"unknown argument {word!r}: see `qgf sweep --help`")
        found[key.removeprefix("--")] = text
    return found


def _jobs(flags: Any) -> list[Job]:
    """Those of the file, or of the grid."""
    if flags.file is not None:
        given = [k for k in ("config", "grid", "evaluate", "needs") if getattr(flags, k)]
        if given:
            raise UserError(f"--{given[0]} is for a sweep without a file: leave one of them out")
        from qgf_jax.sweep.plan import read_file

        return read_file(paths.expand(flags.file))
    if flags.config is None:
        raise UserError("give a file of jobs, or --config and --grid: see `qgf sweep --help`")
    axes = dict(map(_axis, flags.grid or []))
    same = {"config": flags.config, "evaluations": flags.evaluate or ()}
    return Job.grid(axes, **same, needs=flags.needs or Needs())


def _axis(text: str) -> tuple[str, list[str]]:
    """ "seed=0..3" or "env=a,b"."""
    key, equals, values = text.partition("=")
    if not key or not equals or not values:
        raise UserError(f"--grid {text}: write KEY=a,b or KEY=FIRST..LAST")
    first, dots, last = values.partition("..")
    if dots and first.isdecimal() and last.isdecimal():
        if int(first) > int(last) or int(last) - int(first) > 1_000_000:
            raise UserError(f"--grid {text}: write FIRST..LAST, the smaller number first")
        return key, [str(i) for i in range(int(first), int(last) + 1)]
    return key, values.split(",")


def _check_evaluations(jobs: Sequence[Job]) -> None:
    """Raises `UserError` for flags that `qgf evaluate` would refuse, before anything runs."""
    from qgf_jax.cli import evaluate

    for flags, name in {flags: job.name for job in jobs for flags in job.evaluations}.items():
        try:
            evaluate.check(flags)
        except UserError as error:
            raise UserError(f"job {name!r}: evaluation: {error}") from None


def _check_policies(jobs: Sequence[Job], configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises `UserError` for a job whose run would have no policy to evaluate."""
    from qgf_jax.methods.table import Method

    for job in jobs:
        if job.evaluations and job.name in configs:
            Method.named(configs[job.name]["algorithm"]).check_acts(f"job {job.name!r}")


def _say_packed(planned: Plan) -> None:
    packs = [one.members for one in planned.jobs.values() if one.members]
    seeds = sum(map(len, packs))
    log(
        f"qgf: --pack: {seeds} seeds in {len(packs)} runs, {len(planned.jobs) - len(packs)} jobs alone"
    )


def _describe(planned: Plan, configs: Any, flags: Any) -> None:
    from qgf_jax.sweep import view
    from qgf_jax.sweep.estimate import Estimate
    from qgf_jax.sweep.state import State

    found = Estimate.of_jobs(
        planned, configs, State.of_jobs(planned), count=flags.flops, flop_rate=flags.flop_rate
    )
    if flags.json:
        print(json.dumps([one.record for one in found], indent=1))
    else:
        print(view.estimates_table(found))


def _folder_parser(name: str, about: str) -> Parser:
    parser = Parser(prog=f"qgf sweep {name}", description=about)
    parser.add_argument("folder", metavar="FOLDER", type=paths.expand, help="the sweep's --out")
    return parser


def _status(arguments: Sequence[str]) -> None:
    parser = _folder_parser("status", "Says where each job of a sweep is. Writes nothing.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--follow", action="store_true", help="again every 2 s, until all are done")
    flags = parser.parse_args(arguments)
    if flags.json and flags.follow:
        raise UserError("--json says it once: leave --follow out")
    _say_status(flags)
    while flags.follow:
        time.sleep(_FOLLOW)
        if _say_status(flags):
            return


def _say_status(flags: Any) -> bool:
    """Prints the states; on a terminal over what stood there. Returns whether all jobs are done."""
    from qgf_jax.sweep import view
    from qgf_jax.sweep.state import State

    states = State.of_jobs(Plan.read(flags.folder))
    if flags.json:
        print(json.dumps([one.record for one in states], indent=1))
    else:
        text = view.states_table(states, begun=flags.follow)
        print(f"\x1b[H\x1b[J{text}" if flags.follow and sys.stdout.isatty() else text, flush=True)
    return all(one.word == "done" for one in states)


def _cancel(arguments: Sequence[str]) -> None:
    parser = _folder_parser(
        "cancel", "Asks all jobs of a sweep to save and end, on all machines, and waits for them."
    )
    folder: Path = parser.parse_args(arguments).folder
    from qgf_jax.sweep.runner import Cancellation

    plan = Plan.read(folder)
    Cancellation(folder).ask()
    end = time.monotonic() + _CANCELLED
    while left := plan.running():
        if time.monotonic() > end:
            raise UserError(f"{len(left)} jobs have not ended yet, as {left[0]}: look again later")
        time.sleep(0.5)
    log(f"qgf: nothing of {folder} runs; the same sweep goes on when it is started again")


def _run_job(arguments: Sequence[str]) -> None:
    parser = _folder_parser("run-job", "Runs one job to its end here. Engines call it.")
    parser.add_argument("name", metavar="NAME", help="the job")
    flags = parser.parse_args(arguments)
    from qgf_jax.sweep.runner import run_job

    if code := run_job(flags.folder, flags.name):
        sys.exit(code)
