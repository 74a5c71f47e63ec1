"""Plays episodes in a simulator that is itself JAX: policy, guidance and environment, one program."""

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.envs.jax_pointmaze import PointMaze, Start, State
from qgf_jax.errors import UserError
from qgf_jax.evaluation.arms import Program
from qgf_jax.evaluation.compiled import Compiled
from qgf_jax.evaluation.simulators import PATHS, Result, Simulator
from qgf_jax.evaluation.sweep import Job
from qgf_jax.methods.pace import Pace
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runtime import seeds
from qgf_jax.types import Array, Params

_ROUNDS = 4
"""How many times as many episodes as environments one call of a program takes."""


class _Queue(NamedTuple):
    """The episodes of one call: [P] in each leaf, of which the first `count` are real."""

    start: Start
    identity: Any
    """[P, 2] task and number"""
    weight: Any
    numbers: tuple[Any, ...]
    """[P] for each of a program's arguments"""
    count: Any
    """[]"""


class _Outcome(NamedTuple):
    """What became of them, [P] each."""

    total: Any
    """Sum of rewards."""
    steps: Any
    success: Any
    """At the last step."""
    path: Any
    """[P, C, 2], where the next chunk was asked for."""


class _Slots(NamedTuple):
    """Episodes under way, [B] each."""

    episode: Array
    """Which of the queue's; P: none."""
    state: State
    obs: Array
    chunks: Array
    """Asked for so far."""
    total: Array
    decided: Any
    """[B, H, A], what was last decided, where `Pace.overlaps`; else nothing."""


class DeviceSimulator(Simulator):
    """The simulator on the device; it plays all tasks at once.

    `envs` episodes of each seed are under way at once, chunks run open loop, at the sampler's `Pace`,
    and a place whose episode is over takes the queue's next one. Raises `UserError` if the maze is not
    as the run's data.
    """

    def __init__(self, loaded: LoadedRun, maze: PointMaze, envs: int):
        spec = loaded.spec
        if (maze.obs_width, maze.action_dim) != (spec.width, spec.action):
            raise UserError(
                f"{maze.name.full} has observations {maze.obs_width} and actions {maze.action_dim} "
                "wide, not as the run's data"
            )
        super().__init__(loaded)
        self._maze, self._envs = maze, envs
        self._places = _ROUNDS * envs

    def parts(self, jobs: Sequence[Job]) -> list[Sequence[Job]]:
        """All jobs at once."""
        return [jobs] if jobs else []

    @contextlib.contextmanager
    def ready_for(self, jobs: Sequence[Job]) -> Generator[None]:
        """Compiles what the jobs need and was not compiled before."""
        for program in dict.fromkeys(job.acts_as.program for job in jobs):
            if program not in self._programs:
                self._programs[program] = self._compile(program)
        yield

    def play(self, program: Program, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Plays jobs, as many in one call as a queue holds.

        `seconds` of a result is an episode's share of the wall time of its call.
        """
        call, left = self._programs[program], list(jobs)
        execute = self._loaded.pace(program.options).execute
        while left:
            queue, taken, left = self._queue(left, program)
            started = time.perf_counter()
            outcome = call(queue)
            count = sum(map(len, taken))
            seconds = round((time.perf_counter() - started) / count, 3)
            for seed, column in enumerate(taken):
                for place, job in enumerate(column):
                    start = Start(*(x[seed, place] for x in queue.start))
                    ended = _Outcome(*(x[seed, place] for x in outcome))
                    yield job, self._result(job, start, ended, seconds, execute)

    def _result(
        self, job: Job, start: Start, ended: _Outcome, seconds: float, execute: int
    ) -> Result:
        result: Result = {"return": float(ended.total), "length": int(ended.steps)}
        if job.episode // 2 < PATHS:
            chunks = -(-int(ended.steps) // execute)
            path = np.concatenate([start.xy[None], ended.path[:chunks]])
            result["goal"] = [float(x) for x in start.goal]
            result["path"] = [[round(float(x), 2) for x in point] for point in path]
        return {**result, "success": float(ended.success), "seconds": seconds}

    def _queue(
        self, jobs: Sequence[Job], program: Program
    ) -> tuple[_Queue, list[list[Job]], list[Job]]:
        """The first jobs of each seed that a queue holds, which they are, and the jobs that are left."""
        taken: list[list[Job]] = [[] for _ in range(self._loaded.seeds)]
        left = []
        for job in jobs:
            column = taken[job.seed]
            (column if len(column) < self._places else left).append(job)
        shape = (len(taken), self._places)
        nowhere = self._maze.start(self._maze.name.tasks[0], 0)
        starts = jax.tree.map(lambda x: np.zeros((*shape, *x.shape), x.dtype), nowhere)
        identity, weight = np.zeros((*shape, 2), np.int32), np.zeros(shape, np.float32)
        numbers = tuple(np.zeros(shape, np.float32) for _ in program.arguments)
        start = functools.cache(self._maze.start)
        for seed, column in enumerate(taken):
            for place, job in enumerate(column):
                for into, value in zip(starts, start(job.task, job.reset_seed), strict=True):
                    into[seed, place] = value
                identity[seed, place] = (job.task, job.episode)
                weight[seed, place] = job.acts_as.weight
                for into, number in zip(numbers, job.acts_as.numbers, strict=True):
                    into[seed, place] = number
        count = np.array([len(column) for column in taken], np.int32)
        return _Queue(starts, identity, weight, numbers, count), taken, left

    def _compile(self, program: Program) -> Compiled:
        """The one program for a whole sweep of weights, numbers, tasks and seeds, to the last step.

        It plays a queue; leaves have a leading axis of seeds.
        """
        actor, pace = self._loaded.actor(*program), self._loaded.pace(program.options)

        def advance(args: tuple[Any, ...]) -> tuple[_Slots, _Outcome, Array]:
            return self._advance(actor, pace, *args)

        def play(params: Params, queue: _Queue) -> _Outcome:
            carry = jax.vmap(functools.partial(self._first, pace))(queue)

            def body(carry: Any) -> Any:
                return seeds.over_seeds(advance, (params, queue, carry))

            def is_busy(carry: Any) -> Array:
                return (carry[0].episode < self._places).any()

            return jax.lax.while_loop(is_busy, body, carry)[1]

        sharding = self._loaded.sharding()
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            jax.eval_shape(lambda: self._queue([], program)[0]),
        )
        return Compiled(play, self._loaded, shapes)

    def _first(self, pace: Pace, queue: _Queue) -> tuple[_Slots, _Outcome, Array]:
        """The first episodes of a queue, no outcomes, and which episode follows."""
        nothing = jnp.zeros(self._places)
        path = jnp.zeros((self._places, -(-self._maze.limit // pace.execute), 2))
        outcome = _Outcome(nothing, jnp.zeros(self._places, jnp.int32), nothing, path)
        first = jnp.arange(self._envs)
        episode = jnp.where(first < queue.count, first, self._places)
        return self._begin(pace, queue, episode), outcome, jnp.int32(self._envs)

    def _advance(
        self,
        actor: Callable[..., Array],
        pace: Pace,
        params: Params,
        queue: _Queue,
        carry: tuple[Any, ...],
    ) -> tuple[_Slots, _Outcome, Array]:
        """Asks for a chunk in each place, and plays until the next one is asked for."""
        slots, outcome, following = carry
        at, live = slots.episode, slots.episode < self._places
        identity = jnp.concatenate([queue.identity[at], slots.chunks[:, None]], axis=1)
        numbers = (x[at] for x in queue.numbers)
        chunk = jax.vmap(functools.partial(actor, params))(
            slots.obs, identity, queue.weight[at], *numbers, slots.decided
        )
        played = chunk[:, : pace.execute]
        state, obs, reward, over, success = jax.vmap(self._chunk)(slots.state, slots.obs, played)
        decided = chunk if pace.overlaps else None
        slots = _Slots(at, state, obs, slots.chunks + 1, slots.total + reward, decided)
        ended = over & live
        to = jnp.where(ended, at, self._places)  # what is written past the end is dropped
        outcome = _Outcome(
            outcome.total.at[to].set(slots.total, mode="drop"),
            outcome.steps.at[to].set(state.steps, mode="drop"),
            outcome.success.at[to].set(success.astype(jnp.float32), mode="drop"),
            outcome.path.at[at, slots.chunks - 1].set(obs[:, :2], mode="drop"),
        )
        place = following + jnp.cumsum(ended) - 1
        fresh = self._begin(pace, queue, jnp.where(place < queue.count, place, self._places))

        def take(new: Array, old: Array) -> Array:
            return jnp.where(jnp.expand_dims(ended, tuple(range(1, old.ndim))), new, old)

        slots = jax.tree.map(take, fresh, slots)
        return slots, outcome, following + ended.sum()

    def _begin(self, pace: Pace, queue: _Queue, episode: Array) -> _Slots:
        """The places [B] at the start of the episodes [B]."""
        start = jax.tree.map(lambda x: jnp.asarray(x)[episode], queue.start)
        state, obs = jax.vmap(self._maze.reset)(start)
        shape = (len(episode), pace.chunk, self._loaded.spec.action)
        decided = jnp.zeros(shape) if pace.overlaps else None
        nothing = jnp.zeros_like(episode), jnp.zeros(len(episode))
        return _Slots(episode, state, obs, *nothing, decided)

    def _chunk(self, state: State, obs: Array, chunk: Array) -> tuple[Any, ...]:
        """(state, obs [O], sum of rewards, whether it is over, success) after actions [K, A]."""

        def step(carry: tuple[Any, ...], action: Array) -> tuple[Any, None]:
            state, _, total, over, _ = carry
            *after, reward, done, success = self._maze.step(state, action)
            after = (*after, total + reward, done, success)
            return jax.tree.map(lambda old, new: jnp.where(over, old, new), carry, after), None

        carry = (state, obs, jnp.zeros(()), jnp.array(False), jnp.array(False))
        return jax.lax.scan(step, carry, chunk)[0]
