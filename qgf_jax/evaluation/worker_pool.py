"""Plays episodes in the benchmark's own simulator, in worker processes, with one program that acts."""

import collections
import contextlib
import functools
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from qgf_jax.envs.families import EnvName
from qgf_jax.envs.pool import EnvPool, Move, Played
from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Program
from qgf_jax.evaluation.compiled import Compiled
from qgf_jax.evaluation.simulators import PATHS, Result, Simulator, Usage
from qgf_jax.evaluation.sweep import Job
from qgf_jax.methods.pace import Pace
from qgf_jax.runs.blocks import ROWS, in_blocks
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runtime import seeds
from qgf_jax.types import Array

_KEPT = 100
"""Environments of all tasks together whose workers are kept, in 25 MB each."""

Act = Callable[..., np.ndarray]
"""(obs [S, B, O], identity [S, B, 3], weight [S, B], a program's arguments [S, B] …) -> chunks
[S, B, H, A]

The chunks before, [S, B, H, A], come last where `Pace.overlaps`."""


class WorkerPool(Simulator):
    """The simulator of worker processes; it plays one task at a time.

    `envs` environments are stepped at once, at least one for each seed. With `keep_actions` a result
    has the actions [N, A] of its episode too. With `keep_workers` they stay until `close`, for the next
    `rollout`, as far as `_KEPT` environments go.
    """

    def __init__(
        self,
        loaded: LoadedRun,
        name: EnvName,
        envs: int,
        workers: int | None = None,
        *,
        keep_actions: bool = False,
        keep_workers: bool = False,
    ):
        super().__init__(loaded)
        self._name, self._workers = name, workers
        self._most = max(1, envs // loaded.seeds)
        self._keep_actions = keep_actions
        self._kept: dict[tuple[str, int], EnvPool] | None = {} if keep_workers else None
        """By environment and number of them, the one that was used last at the end."""
        self._per_seed = self._turns = 1
        self._pool: EnvPool

    @staticmethod
    def enough(seeds: int) -> int:
        """How many environments a run of so many seeds should have at least; 0 on an accelerator.

        On a CPU the policy acts for `ROWS` of each seed whether there are as many or not: ten
        environments of five seeds cost it as much as eighty. Up to 100, in 25 MB each.
        """
        return min(ROWS * seeds, 100) if jax.default_backend() == "cpu" else 0

    def parts(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """The jobs of each task."""
        by_task: dict[int, list[Job]] = {}
        for job in jobs:
            by_task.setdefault(job.task, []).append(job)
        return list(by_task.values())

    @contextlib.contextmanager
    def ready_for(self, jobs: Sequence[Job]) -> Generator[None]:
        """Starts the workers of a task; what was compiled for another task is used again.

        Raises `UserError` if the environment is not as the run's data.
        """
        name, loaded = self._name.with_task(jobs[0].task), self._loaded
        self._per_seed = min(self._most, _most_at_once(jobs))
        slots = loaded.seeds * self._per_seed
        with self._environments(name, slots) as pool:
            before = pool.cpu_seconds
            _check_widths(pool, loaded)
            self._pool = pool
            self._turns = _turns(pool.slots, self._per_seed, pool.workers)
            for program in dict.fromkeys(job.acts_as.program for job in jobs):
                if (program, self._group_size) not in self._programs:
                    act = _compile_act(loaded, program, self._group_size)
                    self._programs[program, self._group_size] = act
            yield
            self.usage.simulator_cpu_seconds += pool.cpu_seconds - before
            self.usage.cpu_seconds += pool.cpu_seconds - before

    @contextlib.contextmanager
    def _environments(self, name: EnvName, slots: int) -> Generator[EnvPool]:
        """Workers of an environment: kept ones, or new ones, which end with the block or are kept."""
        start = functools.partial(EnvPool, name.full, slots, self._workers, parts=name.parts)
        if self._kept is None:
            with start() as pool:
                yield pool
            return
        pool = self._kept.pop((name.full, slots), None)
        if pool is None:
            while self._kept and slots + sum(n for _, n in self._kept) > _KEPT:
                self._kept.pop(next(iter(self._kept))).close()
            pool = start()
        self._kept[name.full, slots] = pool
        yield pool

    def close(self) -> None:
        """Ends what was kept, workers too."""
        super().close()
        while self._kept:
            self._kept.popitem()[1].close()

    def play(self, program: Program, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Plays jobs in a batch of fixed shape; a finished environment takes the next job at once."""
        groups = list(_groups(self._loaded.seeds, self._per_seed, self._turns))
        act = self._programs[program, self._group_size]
        pace = self._loaded.pace(program.options)
        batch = _Batch(self._loaded, act, self._pool, groups, self.usage, self._keep_actions, pace)
        return batch.play(jobs)

    @property
    def _group_size(self) -> int:
        """B, the environments of one seed that act together."""
        return -(-self._per_seed // self._turns)


def _most_at_once(jobs: Sequence[Job]) -> int:
    """The most environments of one seed that have something to play at once.

    On an accelerator without bound: the last bits of an action depend on how many act together, so
    there the jobs that are left may have no say.
    """
    if jax.default_backend() != "cpu":
        return sys.maxsize
    return max(collections.Counter((job.acts_as.program, job.seed) for job in jobs).values())


def _check_widths(pool: EnvPool, loaded: LoadedRun) -> None:
    spec = loaded.spec
    if pool.action_dim != spec.action:
        raise UserError(
            f"{pool.name} takes actions {pool.action_dim} wide, the run gives {spec.action}: this is "
            "another environment than the run's, or another version"
        )
    if pool.obs_width != spec.width:
        raise UserError(
            f"{pool.name} gives observations {pool.obs_width} wide, the run takes {spec.width}: this is "
            "another environment than the run's, or another version"
        )


def _turns(envs: int, per_seed: int, workers: int) -> int:
    """In how many groups the environments take turns: 2, or 1 where that would not help.

    With two, workers play one group while the policy acts for the other. That is for accelerators: on
    a CPU both want the same cores, and groups smaller than `ROWS` leave more of the policy's rows idle
    (with 32 on two cores, cubes took a tenth less of the wall time, point mazes a twentieth more CPU
    time). With less than two environments a worker, a group would leave some workers idle.
    """
    if jax.default_backend() == "cpu" or per_seed < 2 or envs < 2 * workers:
        return 1
    return 2


def _groups(seeds: int, per_seed: int, count: int) -> Iterator[np.ndarray]:
    """Environments [S, B] of each group; the last of one that is smaller stands there repeatedly.

    B is the same for all, so that one program acts for each. Neighbours are in one group, so that it
    has environments of every worker.
    """
    size = -(-per_seed // count)
    for first in range(0, per_seed, size):
        places = np.minimum(np.arange(first, first + size), per_seed - 1)
        yield np.arange(seeds)[:, None] * per_seed + places


def _compile_act(loaded: LoadedRun, program: Program, per_seed: int) -> Compiled:
    """The one program that acts for a whole sweep of weights, and of numbers of options.

    (obs [S, B, O], identity [S, B, 3], weight [S, B], arguments [S, B] …) -> chunks [S, B, H, A], where
    identity is (task, episode, how many chunks came before), of which the noise is made. S seeds and
    B = `per_seed` environments are fixed, so nothing is ever compiled again. With several devices
    the seeds are divided among them. On a CPU an action is the same to the last bit whatever B is and
    whoever acts beside it. Where `Pace.overlaps`, it takes the chunks before too, [S, B, H, A].
    """
    actor, spec, pace = loaded.actor(*program), loaded.spec, loaded.pace(program.options)

    def batch(args: tuple[Any, ...]) -> Array:
        params, *rest = args
        return in_blocks(functools.partial(actor, params), per_seed)(*rest)

    sharding, shape = loaded.sharding(), (loaded.seeds, per_seed)
    shapes = [
        jax.ShapeDtypeStruct((*shape, spec.width), np.float32, sharding=sharding),
        jax.ShapeDtypeStruct((*shape, 3), np.int32, sharding=sharding),
        *[jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)]
        * (1 + len(program.arguments)),
    ]
    if pace.overlaps:
        chunks = (*shape, spec.chunk, spec.action)
        shapes.append(jax.ShapeDtypeStruct(chunks, np.float32, sharding=sharding))
    return Compiled(lambda *args: seeds.over_seeds(batch, args), loaded, *shapes)


class _Asked(NamedTuple):
    """What a group of environments was asked to do next."""

    begun: Move | None
    """Episodes that begin, and whose first observation has yet to come."""
    gone_on: Move | None
    """Episodes that play what follows."""


class _Batch:
    """The environments of a pool, and what they play.

    They are divided into `groups` [S, B] that take turns: workers play what they were asked to for one
    while `act`, compiled for as many as a group has, decides for the next. Adds to `usage` what was
    waited for.
    """

    def __init__(
        self,
        loaded: LoadedRun,
        act: Act,
        pool: EnvPool,
        groups: Sequence[np.ndarray],
        usage: Usage,
        keep_actions: bool = False,
        pace: Pace | None = None,
    ):
        self._act, self._pool, self._groups, self._usage = act, pool, groups, usage
        self._spec, self._seeds = loaded.spec, loaded.seeds
        self._per_seed = (max(int(group.max()) for group in groups) + 1) // self._seeds
        slots = self._seeds * self._per_seed
        self._obs = np.zeros((slots, loaded.spec.width), np.float32)
        self._identity = np.zeros((slots, 3), np.int32)
        self._weight = np.zeros(slots, np.float32)
        self._numbers = np.zeros((0, slots), np.float32)
        pace = pace or loaded.pace(())
        self._execute = pace.execute
        decided = (slots, self._spec.chunk, self._spec.action)
        self._decided = np.zeros(decided, np.float32) if pace.overlaps else None
        """What was last decided in each environment."""
        self._live: dict[int, tuple[Job, Result]] = {}
        self._queues: list[collections.deque[Job]] = []
        self._actions: dict[int, list[np.ndarray]] | None = {} if keep_actions else None

    def play(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Each job, with its result, when its episode is over."""
        self._queues = [collections.deque() for _ in range(self._seeds)]
        jobs = list(jobs)
        for job in jobs:
            self._queues[job.seed].append(job)
        arguments = len(jobs[0].acts_as.numbers) if jobs else 0
        self._numbers = np.zeros((arguments, len(self._weight)), np.float32)
        asked = collections.deque([(group, self._ask(group)) for group in self._groups])
        while asked:
            group, (begun, gone_on) = asked.popleft()
            if begun:
                self._answer(begun)
            if gone_on:
                yield from self._finished(gone_on)
            if begun or gone_on:
                asked.append((group, self._ask(group)))

    def _ask(self, group: np.ndarray) -> _Asked:
        """What a group does next: free environments begin while there are actions for the others.

        Where one group is all they act with the others at once, as a round without them costs the
        policy as much.
        """
        slots = np.unique(group).tolist()
        busy = [slot for slot in slots if slot in self._live]
        begun = self._begin(slot for slot in slots if slot not in busy)
        if begun and len(self._groups) == 1:
            self._answer(begun)
            live = [slot for slot in slots if slot in self._live]
            return _Asked(None, self._go_on(live, group))
        return _Asked(begun, self._go_on(busy, group))

    def _begin(self, slots: Iterable[int]) -> Move | None:
        """Gives free environments their next jobs, as far as there are any."""
        ready: dict[int, int] = {}
        for slot in slots:
            if not (queue := self._queues[slot // self._per_seed]):
                continue
            job = queue.popleft()
            ready[slot] = job.reset_seed
            self._live[slot] = (job, {"return": 0.0, "length": 0, "started": time.perf_counter()})
            self._identity[slot] = (job.task, job.episode, 0)
            self._weight[slot] = job.acts_as.weight
            self._numbers[:, slot] = job.acts_as.numbers
        return self._pool.ask_reset(list(ready), list(ready.values())) if ready else None

    def _go_on(self, slots: list[int], group: np.ndarray) -> Move | None:
        """Decides for the environments `slots` of a group [S, B]."""
        if not slots:
            return None
        started = time.perf_counter()
        before = () if self._decided is None else (self._decided,)
        arrays = (self._obs, self._identity, self._weight, *self._numbers, *before)
        chunks = self._act(*(array[group] for array in arrays))
        self._usage.waited_for_policy += time.perf_counter() - started
        by_slot = dict(
            zip(group.ravel().tolist(), chunks.reshape(-1, *chunks.shape[2:]), strict=True)
        )
        mine = np.stack([by_slot[slot] for slot in slots])
        if self._decided is not None:
            self._decided[slots] = mine
            mine = mine[:, : self._execute]
        if self._actions is not None:
            for slot, chunk in zip(slots, mine, strict=True):
                self._actions.setdefault(slot, []).append(chunk)
        return self._pool.ask_step(slots, mine)

    def _answer(self, move: Move) -> list[Played]:
        """Waits for what a move did, and notes where it led."""
        started = time.perf_counter()
        self._obs[move.slots], played = self._pool.answer(move)
        self._usage.waited_for_simulator += time.perf_counter() - started
        if self._pool.goal is not None:
            self._note_paths(move.slots, self._pool.goal)
        return played

    def _note_paths(self, slots: Iterable[int], goal: list[float]) -> None:
        """Keeps where the first few episodes of a maze went, one point a decision, and the goal."""
        for slot in slots:
            job, result = self._live[slot]
            if job.episode // 2 < PATHS:
                own = self._spec.observation(self._obs[slot]).goal
                point = [round(float(x), 2) for x in self._obs[slot, :2]]
                result.setdefault("goal", goal if own is None else own[:2].tolist())
                result.setdefault("path", []).append(point)

    def _finished(self, move: Move) -> Iterator[tuple[Job, Result]]:
        """The episodes that are over with a move."""
        played = self._answer(move)
        self._identity[move.slots, 2] += 1
        for slot, chunk in zip(move.slots, played, strict=True):
            job, result = self._live[slot]
            if _add(result, chunk):
                if self._actions is not None:
                    result["actions"] = np.concatenate(self._actions.pop(slot))[: result["length"]]
                del self._live[slot]
                yield job, result


def _add(result: Result, chunk: Played) -> bool:
    """Adds a chunk to an episode's result; true if the episode is over."""
    result["return"] += chunk.reward
    result["length"] += chunk.steps
    if chunk.done:
        if chunk.success is not None:
            result["success"] = chunk.success
        if chunk.failed:  # counts as a failure, and says so
            result["failed"] = chunk.failed
        result["seconds"] = round(time.perf_counter() - result.pop("started"), 3)
    return chunk.done
