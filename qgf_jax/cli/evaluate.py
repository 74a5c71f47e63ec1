"""qgf evaluate"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qgf_guide.bounds import Bound, Count, Counts, EpisodesIfAny, Index, Weights
from qgf_jax.cli import RUNS, Parser
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Arm
from qgf_jax.methods.table import METHODS, Method
from qgf_jax.runs.locks import EVALUATION
from qgf_jax.runs.run import Run
from qgf_jax.runs.watch import Watch
from qgf_jax.runtime import paths

if TYPE_CHECKING:
    from qgf_jax.evaluation.simulators import Usage

_BUDGET = 25
"""Episodes of --select=bandit."""


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `evaluate`, then `film` if films are asked for."""
    flags = _parser().parse_args(arguments)
    if flags.follow:
        _check_before_waiting(flags)
        Watch.wait_for_run(flags.workdir)
    config = Run.open(flags.workdir).config
    Method.named(config["algorithm"]).check_acts(flags.workdir)
    options = _options(flags, config["eval"])
    methods = _methods(flags, config["algorithm"])
    name = EnvName.parse(config["env"])
    if flags.videos and not Family.of(name).draws:
        raise UserError(
            f"--videos: environments such as {name.label} cannot be drawn: leave it out"
        )
    EVALUATION.check_free(flags.out or flags.workdir)
    from qgf_jax.evaluation.evaluate import evaluate

    sweep = Arm.sweep(
        methods,
        flags.weights or config["eval"]["weights"],
        flags.best_of,
        own_weights=not flags.weights,
        # With the paper's own critics best of 32 is ahead of all that it shows with goals.
        more=(32,) if name.goals else (),
    )
    usage = evaluate(flags.workdir, sweep, **options)
    if usage.episodes:
        print(_summary(usage), file=sys.stderr)
    if flags.videos:
        from qgf_jax.report.video import film

        where = {key: options[key] for key in ("tasks", "step", "out")}
        film(flags.workdir, sweep, flags.videos, **where)


def _check_before_waiting(flags: argparse.Namespace) -> None:
    """Raises `UserError` for flags that no run could make right."""
    if flags.step is not None:
        raise UserError("--follow evaluates every checkpoint: leave --step out")
    _check(flags)


def check(words: Sequence[str]) -> None:
    """Raises `UserError` for flags that would be refused whatever the run is; of those, no --workdir."""
    _check(_parser().parse_args(["--workdir=.", *words]))


def _check(flags: argparse.Namespace) -> None:
    _budget(flags)
    if flags.methods:
        _methods(flags, "")


def _options(flags: argparse.Namespace, config: Mapping[str, Any]) -> dict[str, Any]:
    """What `evaluate` is called with: the flags, and where they say nothing the run's own `eval`."""
    simulator, envs = getattr(flags, "envs", (None, None))
    simulator = simulator or config.get("simulator", "mujoco")  # older runs do not say
    if simulator == "jax" and flags.videos:
        raise UserError("--videos films the benchmark's simulator: leave --envs=jax out")
    if envs is None:  # the config's number is of the benchmark's simulator
        envs = 0 if simulator == "jax" else config["envs"]
    return {
        "episodes": config["episodes"] if flags.episodes is None else flags.episodes,
        "selection_episodes": flags.selection_episodes,
        "tasks": flags.tasks or (),
        "envs": envs,
        "simulator": simulator,
        "workers": flags.workers,
        "step": flags.step,
        "report_selected": flags.report_selected,
        "budget": _budget(flags),
        "out": flags.out,
        "follow": flags.follow,
    }


def _budget(flags: argparse.Namespace) -> int | None:
    """Selection episodes of a method and task where not all weights play all; else None."""
    if flags.select == "all":
        if flags.budget is not None:
            raise UserError("--budget is for --select=bandit: give both, or --selection_episodes")
        return None
    if flags.selection_episodes is not None:
        raise UserError("--select=bandit plays --budget episodes: leave --selection_episodes out")
    return _BUDGET if flags.budget is None else flags.budget


def _add_episodes(parser: Parser) -> None:
    """Which episodes are played, and how a weight is selected."""
    parser.add_argument("--tasks", type=Counts, help="1 to 5; else the run's own")
    parser.add_argument(
        "--episodes", type=EpisodesIfAny, help="report episodes an arm; else the config's"
    )
    parser.add_argument(
        "--selection_episodes",
        type=EpisodesIfAny,
        help="for choosing a weight; else as many as --episodes",
    )
    parser.add_argument(
        "--report_selected",
        action="store_true",
        help="report episodes for the selected weight of each method alone",
    )
    parser.add_argument(
        "--select",
        choices=("all", "bandit"),
        default="all",
        help="all: every weight plays all selection episodes; bandit: those that trail are dropped on "
        "the way, and the selected weight alone is reported",
    )
    parser.add_argument(
        "--budget",
        type=EpisodesIfAny,
        help="selection episodes of a bandit, for a method and task, of all weights and seeds together; "
        f"else {_BUDGET}",
    )


def _parser() -> Parser:
    parser = Parser(
        prog="qgf evaluate",
        description="Rolls the newest sound checkpoint of a run out and appends one line per episode\n"
        "to its episodes.jsonl. Episodes that are there already are not played again.",
        epilog="example: qgf evaluate --workdir=runs/cube --methods=reference,best_of,qgf "
        "--weights=0,0.01,0.03\n"
        "a method's options: --methods=qgf:schedule=linear,qgf_smooth:samples=16:sigma=0.2",
    )
    parser.add_argument("--workdir", type=paths.expand, required=True, help="run folder")
    parser.add_argument("--methods", help=f"{', '.join(METHODS)}; else reference, best_of, qgf")
    parser.add_argument(
        "--weights",
        type=Weights,
        help="guidance weights; else a method's own where its units are others, else the config's",
    )
    parser.add_argument(
        "--best_of", type=Counts, help="candidates; else each method's own, and 32 with goals"
    )
    parser.add_argument(
        "--execute",
        type=Count,
        metavar="K",
        help="actions of a chunk until a new one is asked for; else all",
    )
    parser.add_argument(
        "--delay",
        type=Index,
        metavar="D",
        help="actions of the old chunk that are played until the new one comes; else none",
    )
    _add_episodes(parser)
    parser.add_argument(
        "--envs",
        type=_envs,
        default=argparse.SUPPRESS,
        metavar="N|jax[:N]",
        help="environments at once; jax: on the device, an approximation, N for each seed; 0: by "
        "platform; else the config's",
    )
    parser.add_argument("--workers", type=Count, default=os.cpu_count(), help="processes")
    parser.add_argument("--step", type=Index, help="checkpoint; else the newest sound one")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="evaluate each checkpoint once it is sealed, until the run's last step; a run that does "
        "not exist yet is waited for",
    )
    parser.add_argument(
        "--videos", type=EpisodesIfAny, default=0, help="report episodes an arm to film"
    )
    parser.add_argument(
        "--out",
        type=paths.expand,
        help="folder for the episodes of somebody else's run, which stays untouched",
    )
    parser.add_cpu_threads()
    return parser


def _summary(usage: "Usage") -> str:
    rate = usage.env_steps / max(usage.cpu_seconds, 1e-9)
    seconds = max(usage.wall_seconds, 1e-9)
    waits = (
        f"; of these {usage.waited_for_simulator / seconds:.0%} waiting for the simulator, "
        f"{usage.waited_for_policy / seconds:.0%} for the policy"
    )
    on_device = not usage.waited_for_policy  # one program, whose parts are not told apart
    return (
        f"{usage.episodes} episodes, {usage.env_steps} environment steps, {rate:.0f} a CPU-second, "
        f"in {seconds:.1f} s{'' if on_device else waits}"
    )


def _envs(text: str) -> tuple[str | None, int | None]:
    """An argparse type: "40" as (None, 40), "jax:40" as ("jax", 40), "jax" as ("jax", None).

    The number 0 is what suits the platform.
    """
    simulator, _, count = text.rpartition(":") if text != "jax" else ("jax", "", "")
    if simulator not in ("", "jax") or (count and not count.lstrip("-").isdecimal()):
        raise UserError(f"{text!r} is neither a number nor jax nor jax:NUMBER")
    envs = Bound.of(Index).read("the value", count) if count else None
    return simulator or None, envs


def _methods(flags: argparse.Namespace, algorithm: str) -> list[str]:
    """The methods as --methods has them. Raises `UserError` for one that is none."""
    names = (flags.methods or _default(algorithm)).split(",")
    paced = [_paced(name, execute=flags.execute, delay=flags.delay) for name in names]
    for name in paced:
        Method.parse(name)
    return paced


def _paced(method: str, **flags: int | None) -> str:
    """A method as --methods has it, with the options of `Pace` that flags set for all."""
    own = {setting.partition("=")[0] for setting in method.split(":")[1:]}
    more = (f"{name}={value}" for name, value in flags.items() if value and name not in own)
    return ":".join([method, *more])


def _default(algorithm: str) -> str:
    """What a run is evaluated with when nothing is said."""
    wanted = dict.fromkeys(("reference", "best_of", "qgf", algorithm))
    return ",".join(name for name in wanted if name in Method.named(algorithm).serves)
