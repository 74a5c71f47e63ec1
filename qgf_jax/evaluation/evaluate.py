"""Rolls one checkpoint out under many methods, weights and seeds, one line per episode.

An episode is (environment, task, index): its initial state and the noise of its policy are functions
of these alone, so every method, weight and seed meets the same episodes, and comparisons are paired.
Even indices are for selecting a weight, odd ones for reporting; they never mix.
"""

import collections
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from qgf_jax.envs import ogbench
from qgf_jax.envs.jax_pointmaze import PointMaze
from qgf_jax.envs.pool import EnvPool, Move, Played
from qgf_jax.errors import UserError, unknown_name_error
from qgf_jax.evaluation import episodes as records
from qgf_jax.evaluation import evaluate_device
from qgf_jax.evaluation.episodes import SPLITS
from qgf_jax.methods import table as algorithms
from qgf_jax.report import tables
from qgf_jax.runs import policy
from qgf_jax.runs import run as runs
from qgf_jax.runs.policy import LoadedRun
from qgf_jax.runtime import backend
from qgf_jax.training import parallel
from qgf_jax.training.programs import over_seeds
from qgf_jax.types import Array

_ROWS = 16
"""Observations of each seed that act together on a CPU; more are cut up, fewer filled up with idle ones.

With as many as there are environments, the last bits of an action would depend on how many act, and on
its place: a processor takes 8 numbers at a time and rounds otherwise in what is left over.
"""
_PATHS = 10  # episodes of each split whose way through a maze is kept


Act = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(obs [S, B, O], identity [S, B, 3], weight [S, B]) -> chunks [S, B, H, A]"""


class Arm(NamedTuple):
    """What is compared with what: one row of a table."""

    method: str
    weight: float
    best_of: int
    options: algorithms.Options = ()


class Job(NamedTuple):
    """One episode to be played, and the arms that it counts for."""

    arms: tuple[Arm, ...]
    seed: int
    """The place of a training seed in the run."""
    task: int
    episode: int


Write = Callable[[ogbench.EnvName, Job, dict[str, Any]], None]
"""Takes the result of an episode."""


class Usage(NamedTuple):
    """What a call of `evaluate` cost, compilation and start of the workers left out."""

    episodes: int
    env_steps: int
    cpu_seconds: float
    """Of this process and of the workers."""
    simulator_cpu_seconds: float
    """Of the workers alone."""
    wall_seconds: float
    waited_for_simulator: float
    """Seconds of these in which there was nothing to do until a worker answered; on the device, 0."""
    waited_for_policy: float
    """Seconds of these until there were actions; on the device, 0."""


def arms(
    methods: Sequence[str],
    weights: Sequence[float],
    best_of: Sequence[int] | None = None,
    *,
    own_weights: bool = False,
    more: Sequence[int] = (),
) -> list[Arm]:
    """All arms of a sweep; a method is written NAME or NAME:option=value, see `algorithms.parse`.

    A method without a weight ignores `weights`, and with `own_weights` one whose weight has units of
    its own is swept over values of its own. `best_of` replaces the methods' own numbers, except
    where the number is the method; one that is best-of-N by itself leaves a 1 out. Without it that
    one has the numbers `more` too.
    """
    found: dict[Arm, None] = {}
    for text in methods:
        name, options = algorithms.parse(text)
        row = algorithms.method(name)
        candidates = tuple(best_of) if best_of is not None else row.best_of
        if row.fixed_best_of:
            candidates = row.best_of
        elif row.best_of[0] > 1:
            mine = (*row.best_of, *more) if best_of is None else candidates
            candidates = tuple(n for n in mine if n > 1) or row.best_of
        values = row.weights if own_weights and row.weights else weights
        for n in candidates:
            for weight in values if row.weighted else (0.0,):
                found[Arm(name, float(weight), n, options)] = None
    return list(found)


def acts_as(arm: Arm) -> Arm:
    """The cheapest arm with the same actions: at weight 0 no critic gradient is needed."""
    row = algorithms.method(arm.method)
    if row.weighted and arm.weight == 0.0 and row.at_zero:
        free = algorithms.free_options(row.at_zero)
        shared = tuple((k, v) for k, v in arm.options if k in free)
        arm = Arm(row.at_zero, 0.0, arm.best_of, shared)
    return arm._replace(method=algorithms.canonical(arm.method))


def episode_seed(task: int, episode: int) -> int:
    """The seed of an episode's reset; different for every (task, episode) below a million."""
    return task * 1_000_000 + episode


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
    simulator: str = "mujoco",
    out: str | os.PathLike | None = None,
) -> Usage:
    """Plays what is missing of `sweep` and appends it to the run's episodes.jsonl.

    `episodes` are for the report and as many, or `selection_episodes`, for selecting a weight, for
    every arm, task and seed. `envs` environments are stepped at once, at least one for each seed; 0 is
    what `backend.choose` says. On a CPU results depend on neither that nor `workers`. Episodes that
    the file already has are not played again.
    `report_selected` plays the selection episodes of all arms first, and then the report episodes of
    each method's selected weight alone; where there is one weight there is nothing to select.
    `simulator`: one of `ogbench.SIMULATORS`. "jax" plays on the device, in an approximation that lines
    name beside the environment, so that nothing takes them for the benchmark's; `envs` are of each seed.
    `out` is another folder for the lines, see `run.create_beside`; that of the run stays untouched.
    Raises `UserError` if another process evaluates there, `SaveError` if lines cannot be written.
    """
    if simulator not in ogbench.SIMULATORS:
        raise unknown_name_error("simulator", simulator, ogbench.SIMULATORS)
    run = runs.open_run(workdir)
    if out is not None:
        run = runs.create_beside(run, out)
    name = ogbench.parse(run.config["env"])
    maze = None
    if simulator == ogbench.ON_DEVICE:
        name = name._replace(simulator=ogbench.ON_DEVICE)
        maze = PointMaze(name)
    selection = episodes if selection_episodes is None else selection_episodes
    to_select = [2 * i for i in range(selection)]
    to_report = [2 * i + 1 for i in range(episodes)]
    groups = collections.Counter(arm._replace(weight=0.0) for arm in sweep)
    alone = [arm for arm in sweep if groups[arm._replace(weight=0.0)] == 1]
    rivals = [arm for arm in sweep if arm not in alone]
    if report_selected and rivals and not selection:
        raise UserError("no selection episodes to choose a weight on: give --selection_episodes")
    programs: dict[tuple[Any, ...], Any] = {}
    parts = [Usage(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)]
    names = [name.with_task(task) for task in tasks or name.tasks]

    with records.only_writer(run) as log:
        restored = policy.restore(workdir, step)._replace(run=run)
        envs = backend.choose("eval.envs" if maze is None else "--envs=jax", envs)
        write = functools.partial(_write, log, restored.step)

        def play_missing(arms: Sequence[Arm], indices: Sequence[int]) -> None:
            done = _done(log)
            jobs = {one: list(_missing(restored, arms, one, indices, done)) for one in names}
            if maze is not None:
                every = list(itertools.chain(*jobs.values()))
                parts.append(_evaluate_on_device(restored, every, maze, envs, programs, write))
                return
            for one, mine in jobs.items():
                if mine:
                    parts.append(
                        _evaluate_task(restored, mine, one, envs, workers, programs, write)
                    )

        if report_selected:
            play_missing(rivals, to_select)
            play_missing(alone + _selected(restored, log, rivals, names), to_report)
        else:
            play_missing(sweep, to_select + to_report)
    return Usage(*map(sum, zip(*parts, strict=True)))


def _selected(
    restored: LoadedRun, log: records.Log, sweep: Sequence[Arm], names: Sequence[ogbench.EnvName]
) -> list[Arm]:
    """The arms of `sweep` whose weight the selection episodes so far choose."""
    mine = [(name.label, name.task, restored.step) for name in names]
    lines = [
        line
        for line in log.lines
        if (line["env"], line["task"], line["step"]) in mine and _arm(line) in sweep
    ]
    rows = tables.summarize(lines)
    chosen = (_arm(row) for row in rows if row["split"] == "selection" and row["selected"])
    return list(dict.fromkeys(chosen))


def _arm(line: Mapping[str, Any]) -> Arm:
    """The arm of a line of episodes.jsonl, or of a row of a table."""
    options = tuple(sorted(line["options"].items()))
    return Arm(line["method"], line["weight"], line["best_of"], options)


def _done(log: records.Log) -> set[tuple[Any, ...]]:
    keys = ("env", "task", "episode", "seed", "step")
    lines = (line for line in log.lines if not line.get("failed"))
    return {(*_arm(line), *(line[k] for k in keys)) for line in lines}


def _missing(
    restored: LoadedRun,
    sweep: Sequence[Arm],
    name: ogbench.EnvName,
    indices: Sequence[int],
    done: set[tuple[Any, ...]],
) -> Iterator[Job]:
    shared: dict[Arm, list[Arm]] = {}
    for arm in sweep:
        shared.setdefault(acts_as(arm), []).append(arm)
    for same in shared.values():
        for episode in indices:
            for seed in range(restored.run.config["seeds"]):
                rest = (name.label, name.task, episode, seed, restored.step)
                if left := tuple(arm for arm in same if (*arm, *rest) not in done):
                    yield Job(left, seed, name.task, episode)


def _evaluate_task(
    restored: LoadedRun,
    jobs: list[Job],
    name: ogbench.EnvName,
    envs: int,
    workers: int | None,
    programs: dict[tuple[Any, ...], Act],
    write: Write,
) -> Usage:
    """All jobs of one task, sampler by sampler: what differs in weight alone shares a batch.

    `programs` keeps what was compiled, for other tasks too.
    """
    seeds = restored.run.config["seeds"]
    per_seed = max(1, envs // seeds)
    groups = _by_sampler(jobs)
    env_steps, waited = 0, Waited()
    with EnvPool(name.full, seeds * per_seed, workers) as pool:
        taking_turns = turns(pool.slots, per_seed, pool.workers)
        for key in groups.keys() - programs.keys():
            size = -(-per_seed // taking_turns)
            programs[key] = compile_act(restored, key[0], key[1], size, key[2])
        wall, cpu, pool_cpu = time.perf_counter(), time.process_time(), pool.cpu_seconds
        with _bar(jobs) as bar:
            for key, group in groups.items():
                bar.set_description(_title(key))
                played = play(restored, programs[key], pool, group, per_seed, taking_turns, waited)
                for job, result in played:
                    env_steps += result["length"]
                    write(name, job, result)
                    bar.update()
        simulator = pool.cpu_seconds - pool_cpu
        cpu = time.process_time() - cpu + simulator
        wall = time.perf_counter() - wall
    return Usage(len(jobs), env_steps, cpu, simulator, wall, waited.simulator, waited.policy)


def _evaluate_on_device(
    restored: LoadedRun,
    jobs: list[Job],
    maze: PointMaze,
    envs: int,
    programs: dict[tuple[Any, ...], evaluate_device.Play],
    write: Write,
) -> Usage:
    """All jobs, sampler by sampler, whatever their tasks; the simulator's time is not told apart."""
    groups, env_steps = _by_sampler(jobs), 0
    place = parallel.for_seeds(restored.run.config["seeds"])
    for key in groups.keys() - programs.keys():
        programs[key] = evaluate_device.compile_play(restored, maze, envs, *key, place=place)
    wall, cpu = time.perf_counter(), time.process_time()
    with _bar(jobs) as bar:
        for key, group in groups.items():
            bar.set_description(_title(key))
            episodes = [
                evaluate_device.Episode(
                    job.seed,
                    job.task,
                    job.episode,
                    episode_seed(job.task, job.episode),
                    acts_as(job.arms[0]).weight,
                )
                for job in group
            ]
            for i, result in evaluate_device.play(restored, maze, programs[key], envs, episodes):
                if group[i].episode // 2 >= _PATHS:
                    del result["path"], result["goal"]
                env_steps += result["length"]
                write(maze.name, group[i], result)
                bar.update()
    cpu = time.process_time() - cpu
    return Usage(len(jobs), env_steps, cpu, 0.0, time.perf_counter() - wall, 0.0, 0.0)


_Sampler = tuple[str, int, algorithms.Options]
"""Method, best-of-N and options: what a program is compiled for."""


def _by_sampler(jobs: Iterable[Job]) -> dict[_Sampler, list[Job]]:
    groups: dict[_Sampler, list[Job]] = {}
    for job in jobs:
        real = acts_as(job.arms[0])
        groups.setdefault((real.method, real.best_of, real.options), []).append(job)
    return groups


def _bar(jobs: Sequence[Job]) -> Any:
    return tqdm(total=len(jobs), unit="episode", disable=None, file=sys.stderr)


def _title(sampler: _Sampler) -> str:
    method, best_of, _ = sampler
    return method if best_of == 1 else f"{method} best of {best_of}"


def _write(
    log: records.Log, step: int, name: ogbench.EnvName, job: Job, result: dict[str, Any]
) -> None:
    for arm in job.arms:
        line = {
            **arm._asdict(),
            "options": dict(arm.options),
            "env": name.label,
            "task": job.task,
            "episode": job.episode,
            "split": SPLITS[job.episode % 2],
            "seed": job.seed,
            "step": step,
            **result,
        }
        log.append(line)


def compile_act(
    restored: LoadedRun, method: str, best_of: int, per_seed: int, options: algorithms.Options = ()
) -> Act:
    """The one program that acts for a whole sweep of weights.

    (obs [S, B, O], identity [S, B, 3], weight [S, B]) -> chunks [S, B, H, A], where identity is
    (task, episode, how many chunks came before) and is what the noise is made of. S seeds and
    B = `per_seed` environments are fixed, so nothing is ever compiled again. With several devices
    the seeds are divided among them. On a CPU an action is the same to the last bit whatever B is and
    whoever acts beside it.
    """
    one, spec = policy.actor(restored, method, best_of, options), restored.spec

    rows = _ROWS if jax.default_backend() == "cpu" else per_seed

    def batch(args: tuple[Any, ...]) -> Array:
        groups, *rest = args

        def block(some: Any) -> Array:
            return jax.vmap(one, in_axes=(None, 0, 0, 0))(groups, *some)

        def blocks(x: Array) -> Array:
            filled = jnp.pad(x, [(0, -per_seed % rows), *((0, 0) for _ in x.shape[1:])])
            return filled.reshape(-1, rows, *x.shape[1:])

        chunks = jax.lax.map(block, jax.tree.map(blocks, tuple(rest)))
        return chunks.reshape(-1, *chunks.shape[2:])[:per_seed]

    seeds = restored.run.config["seeds"]
    place = parallel.for_seeds(seeds)
    groups = jax.device_put((restored.params, restored.target_params), place)
    shapes = (
        jax.ShapeDtypeStruct((seeds, per_seed, spec.obs_dim), np.float32, sharding=place),
        jax.ShapeDtypeStruct((seeds, per_seed, 3), np.int32, sharding=place),
        jax.ShapeDtypeStruct((seeds, per_seed), np.float32, sharding=place),
    )
    program = jax.jit(lambda *args: over_seeds(batch, args)).lower(groups, *shapes).compile()
    return lambda obs, identity, weight: np.asarray(program(groups, obs, identity, weight))


def turns(envs: int, per_seed: int, workers: int) -> int:
    """In how many groups the environments take turns: 2, or 1 where that would not help.

    With two, workers play one group while the policy acts for the other. That is for accelerators: on
    a CPU both want the same cores, and groups smaller than `_ROWS` leave more of the policy's rows idle
    (with 32 on two cores, cubes took a tenth less of the wall time, point mazes a twentieth more CPU
    time). With less than two environments a worker, a group would leave some workers idle.
    """
    if jax.default_backend() == "cpu" or per_seed < 2 or envs < 2 * workers:
        return 1
    return 2


class Waited:
    """Seconds that `play` spent waiting."""

    def __init__(self) -> None:
        self.simulator = 0.0
        self.policy = 0.0


def play(
    restored: LoadedRun,
    act: Act,
    pool: EnvPool,
    jobs: Iterable[Job],
    per_seed: int,
    groups: int = 1,
    waited: Waited | None = None,
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Plays `jobs` in a batch of fixed shape; a finished environment takes the next job at once.

    The `per_seed` environments of each seed are divided into `groups` that take turns: workers play
    what they were asked to for one while `act`, compiled for as many as the largest has, decides for
    the next. Adds to `waited`.
    """
    spec, seeds = restored.spec, restored.run.config["seeds"]
    if pool.action_dim != spec.action_dim:
        raise UserError(f"{pool.name} takes actions {pool.action_dim} wide, not as the run's data")
    if pool.obs_dim != spec.obs_dim:
        raise UserError(f"{pool.name} is seen as {pool.obs_dim} numbers, the run {spec.obs_dim}")
    waited = waited or Waited()
    queues: list[collections.deque[Job]] = [collections.deque() for _ in range(seeds)]
    for job in jobs:
        queues[job.seed].append(job)
    obs = np.zeros((seeds * per_seed, spec.obs_dim), np.float32)
    identity = np.zeros((seeds * per_seed, 3), np.int32)
    weight = np.zeros(seeds * per_seed, np.float32)
    live: dict[int, tuple[Job, dict[str, Any]]] = {}

    def note_paths(slots: Iterable[int]) -> None:
        """Keeps where the first few episodes of a maze went, one point a chunk, and the goal."""
        for slot in slots if pool.goal is not None else ():
            job, result = live[slot]
            if job.episode // 2 < _PATHS:
                goal = obs[slot, -spec.goal_dim :][:2].tolist() if spec.goal_dim else pool.goal
                result.setdefault("goal", goal)
                result.setdefault("path", []).append([round(float(x), 2) for x in obs[slot, :2]])

    def begin(slots: Iterable[int]) -> Move | None:
        """Gives free environments their next jobs, as far as there are any."""
        ready = []
        for slot in slots:
            if not (queue := queues[slot // per_seed]):
                continue
            job = queue.popleft()
            ready.append(slot)
            live[slot] = (job, {"return": 0.0, "length": 0, "started": time.perf_counter()})
            identity[slot] = (job.task, job.episode, 0)
            weight[slot] = acts_as(job.arms[0]).weight
        if not ready:
            return None
        begun = (live[slot][0] for slot in ready)
        return pool.ask_reset(ready, [episode_seed(job.task, job.episode) for job in begun])

    def go_on(slots: list[int], group: np.ndarray) -> Move | None:
        """Decides for the environments `slots` of a group [S, B]."""
        if not slots:
            return None
        started = time.perf_counter()
        chunks = act(obs[group], identity[group], weight[group])
        waited.policy += time.perf_counter() - started
        by_slot = dict(
            zip(group.ravel().tolist(), chunks.reshape(-1, *chunks.shape[2:]), strict=True)
        )
        return pool.ask_step(slots, np.stack([by_slot[slot] for slot in slots]))

    def ask(group: np.ndarray) -> tuple[Move | None, Move | None]:
        """What a group does next: free environments begin while there are actions for the others.

        Where one group is all they act with the others at once, as a round without them costs the
        policy as much.
        """
        slots = np.unique(group).tolist()
        busy = [slot for slot in slots if slot in live]
        begun = begin(slot for slot in slots if slot not in busy)
        if begun and groups == 1:
            answer(begun)
            note_paths(begun.slots)
            return None, go_on([slot for slot in slots if slot in live], group)
        return begun, go_on(busy, group)

    def answer(move: Move) -> list[Played]:
        started = time.perf_counter()
        obs[move.slots], played = pool.answer(move)
        waited.simulator += time.perf_counter() - started
        return played

    asked = collections.deque((group, ask(group)) for group in _groups(seeds, per_seed, groups))
    while asked:
        group, (begun, gone_on) = asked.popleft()
        if begun:
            answer(begun)
            note_paths(begun.slots)
        if gone_on:
            played = answer(gone_on)
            identity[gone_on.slots, 2] += 1
            note_paths(gone_on.slots)
            for slot, chunk in zip(gone_on.slots, played, strict=True):
                if _add(live[slot][1], chunk):
                    yield live.pop(slot)
        if begun or gone_on:
            asked.append((group, ask(group)))


def _groups(seeds: int, per_seed: int, count: int) -> Iterator[np.ndarray]:
    """Environments [S, B] of each group; the last of one that is smaller stands there repeatedly.

    B is the same for all, so that one program acts for each. Neighbours are in one group, so that it
    has environments of every worker.
    """
    size = -(-per_seed // count)
    for first in range(0, per_seed, size):
        places = np.minimum(np.arange(first, first + size), per_seed - 1)
        yield np.arange(seeds)[:, None] * per_seed + places


def _add(result: dict[str, Any], chunk: Played) -> bool:
    """Adds a chunk to an episode's result; true if the episode is over."""
    result["return"] += chunk.reward
    result["length"] += chunk.steps
    if chunk.done:
        result["success"] = chunk.success
        if chunk.failed:  # counts as a failure, and says so
            result["failed"] = chunk.failed
        result["seconds"] = round(time.perf_counter() - result.pop("started"), 3)
    return chunk.done
