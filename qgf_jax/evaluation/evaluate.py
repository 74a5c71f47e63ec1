"""Rolls one checkpoint out under many methods, weights and seeds, one line per episode."""

import os
from collections.abc import Sequence

from qgf_jax.envs.families import ON_DEVICE, SIMULATORS, EnvName, Family
from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.device import DeviceSimulator
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.evaluation.simulators import Result, Simulator, Usage
from qgf_jax.evaluation.sweep import Job, Plan
from qgf_jax.evaluation.worker_pool import WorkerPool
from qgf_jax.methods.pace import Pace
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import Run
from qgf_jax.runtime import backend
from qgf_jax.types import Spec


@backend.standardized
def evaluate(
    workdir: str | os.PathLike,
    sweep: Sequence[Arm],
    *,
    episodes: int = 50,
    selection_episodes: int | None = None,
    tasks: Sequence[int] = (),
    envs: int = 0,
    workers: int | None = None,
    step: int | None = None,
    report_selected: bool = False,
    budget: int | None = None,
    simulator: str = "mujoco",
    out: str | os.PathLike | None = None,
) -> Usage:
    """Plays what is missing of `sweep` and appends it to the run's episodes.jsonl.

    `episodes` are for the report and as many, or `selection_episodes`, for selecting a weight, for
    every arm, task and seed. `envs` environments are stepped at once, at least one for each seed; 0 is
    what `backend.choose` says. On a CPU results depend on neither `envs` nor `workers`. Episodes that
    the file already has are not played again.
    `report_selected` plays the selection episodes of all arms first, and then the report episodes of
    each method's selected weight alone; where there is one weight there is nothing to select.
    `budget` does so with that many selection episodes in all, for each method with several weights and
    each task, see `halving`: weights that trail are dropped on the way. Not with `selection_episodes`.
    `simulator`: one of `SIMULATORS`. "jax" plays on the device, in an approximation that lines name
    beside the environment, so that nothing takes them for the benchmark's; `envs` are of each seed.
    `out` is another folder for the lines, see `Run.beside`; that of the run stays untouched.
    Raises `UserError` if another process evaluates there, `SaveError` if lines cannot be written.
    """
    if budget is not None and selection_episodes is not None:
        raise UserError("selection episodes are given by a budget or by their number, not by both")
    run = Run.open(workdir)
    if out is not None:
        run = run.beside(out)
    name = _playable(run, simulator)
    for arm in sweep:  # or one line, before anything is played
        Pace.of(dict(arm.options), Spec.of(run.spec).chunk)
    plan = Plan(
        name.label,
        [name.with_task(task).task for task in tasks or name.tasks],
        run.config["seeds"],
        sweep,
        episodes,
        episodes if selection_episodes is None else selection_episodes,
        report_selected,
        budget,
    )
    with EpisodeLog.only_writer(run) as log:
        loaded = LoadedRun.open(workdir, step)
        run.link()
        player = _simulator(loaded, name, envs, workers)

        def record(job: Job, result: Result) -> None:
            for line in job.lines(name.label, loaded.step, result):
                log.append(line)

        for jobs in plan.stages(loaded.step, log.lines):
            player.rollout(jobs, record)
    return player.usage


def _playable(run: Run, simulator: str) -> EnvName:
    """The run's environment in `simulator`. Raises `UserError` if it cannot be played there."""
    if simulator not in SIMULATORS:
        raise UserError.unknown("simulator", simulator, SIMULATORS)
    name = run.env
    if simulator == ON_DEVICE:
        name = name.played_in(ON_DEVICE)
        Family.of(name).device_simulator(name)  # or one line that there is none
    if not Family.of(name).plays:
        Family.of(name).make(name)  # says what to do instead
    return name


def _simulator(loaded: LoadedRun, name: EnvName, envs: int, workers: int | None) -> Simulator:
    """What plays the episodes of an environment: on the device, or in worker processes."""
    if name.simulator == ON_DEVICE:
        maze = Family.of(name).device_simulator(name)
        return DeviceSimulator(loaded, maze, backend.choose("--envs=jax", envs))
    given = envs or max(backend.choose("eval.envs", 0, quiet=True), WorkerPool.enough(loaded.seeds))
    return WorkerPool(loaded, name, backend.choose("eval.envs", given), workers)
