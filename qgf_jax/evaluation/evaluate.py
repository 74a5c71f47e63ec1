"""Rolls checkpoints out under many methods, weights and seeds, one line per episode."""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence

from qgf_jax.envs.families import ON_DEVICE, SIMULATORS, EnvName, Family
from qgf_jax.errors import UserError, log
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.device import DeviceSimulator
from qgf_jax.evaluation.episodes import EpisodeLog
from qgf_jax.evaluation.simulators import Result, Simulator, Usage
from qgf_jax.evaluation.sweep import Job, Plan
from qgf_jax.evaluation.worker_pool import WorkerPool
from qgf_jax.methods.pace import Pace
from qgf_jax.methods.table import Method
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import Run
from qgf_jax.runs.watch import Watch
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
    follow: bool = False,
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
    `follow` does so for each checkpoint, once it is sealed, until the run's last step, see `Watch`.
    Raises `UserError` if another process evaluates there, `SaveError` if lines cannot be written.
    """
    if budget is not None and selection_episodes is not None:
        raise UserError("selection episodes are given by a budget or by their number, not by both")
    if follow and step is not None:
        raise UserError("every checkpoint is evaluated or one step of them, not both")
    run = Run.open(workdir)
    if out is not None:
        run = run.beside(out)
    name = _playable(run, simulator)
    _check_paces(sweep, Spec.of(run.spec))
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
    simulator_of = functools.partial(
        _simulator, name=name, envs=envs, workers=workers, keep_workers=follow
    )
    with (
        EpisodeLog.only_writer(run) as episode_log,
        contextlib.closing(_Evaluation(run, plan, episode_log, simulator_of)) as evaluation,
    ):
        if follow:
            evaluation.follow(workdir)
        else:
            evaluation.play(LoadedRun.open(workdir, step))
        return evaluation.usage


def _check_paces(sweep: Sequence[Arm], spec: Spec) -> None:
    """Raises `UserError` before anything is played."""
    for arm in sweep:
        Pace.of(dict(arm.options), spec.chunk)


class _Evaluation:
    """What one process plays of a plan, with one checkpoint after another."""

    def __init__(
        self,
        run: Run,
        plan: Plan,
        episode_log: EpisodeLog,
        simulator_of: Callable[[LoadedRun], Simulator],
    ):
        self._run, self._plan, self._log = run, plan, episode_log
        self._simulator_of = simulator_of
        self._player: Simulator | None = None

    @property
    def usage(self) -> Usage:
        """Of all checkpoints together."""
        return self._player.usage if self._player else Usage()

    def play(self, loaded: LoadedRun, then: Callable[[], None] = lambda: None) -> None:
        """Plays what is missing of a checkpoint, and calls `then` after each episode."""
        self._run.link()
        if self._player is None:
            self._player = self._simulator_of(loaded)
        else:
            self._player.go_on_with(loaded)

        def record(job: Job, result: Result) -> None:
            for line in job.lines(self._plan.env, loaded.step, result):
                self._log.append(line)
            then()

        for jobs in self._plan.stages(loaded.step, self._log.lines):
            self._player.rollout(jobs, record)

    def follow(self, workdir: str | os.PathLike) -> None:
        """Plays each checkpoint of the run in `workdir` when it is sealed, up to the last."""
        watch = Watch(self._run)
        for step in watch.steps():
            # The first stage of which something is missing says it: those before were played.
            missing = any(self._plan.stages(step, self._log.lines))
            if missing and (loaded := _open_if_sound(watch, workdir, step)):
                self.play(loaded, watch.look)

    def close(self) -> None:
        """Ends the simulator."""
        if self._player:
            self._player.close()


def _open_if_sound(watch: Watch, workdir: str | os.PathLike, step: int) -> LoadedRun | None:
    """A checkpoint; None, and a line that says why, for one that was altered or is being removed.

    Raises `UserError` if that is the last one.
    """
    try:
        return LoadedRun.open(workdir, step)
    except Exception as error:  # of many kinds, by what Orbax says of files that vanish
        why = watch.why_invalid(step)
        if not why or step >= watch.last:
            raise
        if not isinstance(error, UserError):  # which has said so
            log(f"qgf: warning: checkpoint {step} is not used: {why}")
        return None


def _playable(run: Run, simulator: str) -> EnvName:
    """The run's environment in `simulator`. Raises `UserError` if it cannot be played there."""
    if simulator not in SIMULATORS:
        raise UserError.unknown("simulator", simulator, SIMULATORS)
    Method.named(run.config["algorithm"]).check_acts(run.workdir)
    name = run.env
    if simulator == ON_DEVICE:
        name = name.played_in(ON_DEVICE)
        Family.of(name).device_simulator(name)  # or one line that there is none
    if not Family.of(name).plays:
        Family.of(name).make(name)  # says what to do instead
    return name


def _simulator(
    loaded: LoadedRun, name: EnvName, envs: int, workers: int | None, *, keep_workers: bool
) -> Simulator:
    """What plays the episodes of an environment: on the device, or in worker processes."""
    if name.simulator == ON_DEVICE:
        maze = Family.of(name).device_simulator(name)
        return DeviceSimulator(loaded, maze, backend.choose("--envs=jax", envs))
    given = envs or max(backend.choose("eval.envs", 0, quiet=True), WorkerPool.enough(loaded.seeds))
    count = backend.choose("eval.envs", given)
    return WorkerPool(loaded, name, count, workers, keep_workers=keep_workers)
