"""Plays episodes in a simulator that is itself JAX: policy, guidance and environment, one program."""

import collections
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.envs.jax_pointmaze import PointMaze, Start, State
from qgf_jax.errors import UserError
from qgf_jax.methods import table as algorithms
from qgf_jax.runs import policy
from qgf_jax.runs.policy import LoadedRun
from qgf_jax.training.programs import over_seeds
from qgf_jax.types import Array, Params

ROUNDS = 4
"""How many times as many one call of a program takes."""


class Episode(NamedTuple):
    """One to be played, by the policy of one training seed under one weight."""

    seed: int
    """The place of a training seed in the run."""
    task: int
    number: int
    reset: int
    """The seed of its reset."""
    weight: float


class Queue(NamedTuple):
    """The episodes of one call: [P] in each leaf, of which the first `count` are real."""

    start: Start
    identity: Any
    """[P, 2] task and number"""
    weight: Any
    count: Any
    """[]"""


class Outcome(NamedTuple):
    """What became of them, [P] each."""

    total: Any
    """Sum of rewards."""
    steps: Any
    success: Any
    """At the last step."""
    path: Any
    """[P, C, 2], where each chunk ended."""


class _Slots(NamedTuple):
    """Episodes under way, [B] each."""

    episode: Array
    """Which of the queue's; P: none."""
    state: State
    obs: Array
    chunks: Array
    """Played so far."""
    total: Array


Play = Callable[[Queue], Outcome]
"""Leaves have a leading axis of seeds."""


def compile_play(
    restored: LoadedRun,
    maze: PointMaze,
    envs: int,
    method: str,
    best_of: int = 1,
    options: algorithms.Options = (),
    place: Any = None,
) -> Play:
    """The one program that plays a whole sweep of weights, tasks and seeds, to the last step.

    `envs` episodes of each seed are under way at once, chunks run open loop, and a place whose episode
    is over takes the queue's next one. A queue holds `ROUNDS * envs`. `place` is the sharding of
    arrays by seed (`parallel.for_seeds`); `None`: all on one device.
    """
    spec, places = restored.spec, ROUNDS * envs
    if (maze.obs_dim, maze.action_dim) != (spec.obs_dim, spec.action_dim):
        raise UserError(
            f"{maze.name.full} has observations {maze.obs_dim} and actions {maze.action_dim} wide, "
            "not as the run's data"
        )
    act = policy.actor(restored, method, best_of, options)

    def first(queue: Queue) -> tuple[_Slots, Outcome, Array]:
        nothing = jnp.zeros(places)
        path = jnp.zeros((places, -(-maze.limit // spec.chunk), 2))
        outcome = Outcome(nothing, jnp.zeros(places, jnp.int32), nothing, path)
        episode = jnp.where(jnp.arange(envs) < queue.count, jnp.arange(envs), places)
        return _begin(maze, queue, episode), outcome, jnp.int32(envs)

    def advance(args: tuple[Any, ...]) -> tuple[_Slots, Outcome, Array]:
        """One chunk in each place."""
        groups, queue, (slots, outcome, following) = args
        at, live = slots.episode, slots.episode < places
        identity = jnp.concatenate([queue.identity[at], slots.chunks[:, None]], axis=1)
        chunk = jax.vmap(act, in_axes=(None, 0, 0, 0))(
            groups, slots.obs, identity, queue.weight[at]
        )
        state, obs, reward, over, success = jax.vmap(_chunk(maze))(slots.state, slots.obs, chunk)
        slots = _Slots(at, state, obs, slots.chunks + 1, slots.total + reward)
        ended = over & live
        to = jnp.where(ended, at, places)  # what is written past the end is dropped
        outcome = Outcome(
            outcome.total.at[to].set(slots.total, mode="drop"),
            outcome.steps.at[to].set(state.steps, mode="drop"),
            outcome.success.at[to].set(success.astype(jnp.float32), mode="drop"),
            outcome.path.at[at, slots.chunks - 1].set(obs[:, :2], mode="drop"),
        )
        place = following + jnp.cumsum(ended) - 1
        fresh = _begin(maze, queue, jnp.where(place < queue.count, place, places))

        def take(new: Array, old: Array) -> Array:
            return jnp.where(jnp.expand_dims(ended, tuple(range(1, old.ndim))), new, old)

        slots = jax.tree.map(take, fresh, slots)
        return slots, outcome, following + ended.sum()

    def play(groups: tuple[Params, Params], queue: Queue) -> Outcome:
        carry = jax.vmap(first)(queue)

        def body(carry: Any) -> Any:
            return over_seeds(advance, (groups, queue, carry))

        return jax.lax.while_loop(lambda c: (c[0].episode < places).any(), body, carry)[1]

    groups = jax.device_put((restored.params, restored.target_params), place)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(lambda: _queue(maze, restored, places, [])[0]),
    )
    program = jax.jit(play).lower(groups, shapes).compile()
    return lambda queue: jax.tree.map(np.asarray, program(groups, queue))


def _begin(maze: PointMaze, queue: Queue, episode: Array) -> _Slots:
    """The places [B] at the start of the episodes [B]."""
    start = jax.tree.map(lambda x: jnp.asarray(x)[episode], queue.start)
    state, obs = jax.vmap(maze.reset)(start)
    return _Slots(episode, state, obs, jnp.zeros_like(episode), jnp.zeros(len(episode)))


def _chunk(maze: PointMaze) -> Callable[..., tuple[Any, ...]]:
    """(state, obs [O], chunk [H, A]) -> (state, obs, sum of rewards, whether it is over, success)."""

    def step(carry: tuple[Any, ...], action: Array) -> tuple[Any, None]:
        state, _, total, over, _ = carry
        *after, reward, done, success = maze.step(state, action)
        after = (*after, total + reward, done, success)
        return jax.tree.map(lambda old, new: jnp.where(over, old, new), carry, after), None

    def play(state: State, obs: Array, chunk: Array) -> tuple[Any, ...]:
        carry = (state, obs, jnp.zeros(()), jnp.array(False), jnp.array(False))
        return jax.lax.scan(step, carry, chunk)[0]

    return play


def play(
    restored: LoadedRun, maze: PointMaze, program: Play, envs: int, episodes: Sequence[Episode]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place in `episodes`, result) of each, a result as `evaluate.play` gives it.

    `seconds` is an episode's share of the wall time of its call.
    """
    left = collections.deque(range(len(episodes)))
    while left:
        queue, taken = _queue(maze, restored, ROUNDS * envs, [(i, episodes[i]) for i in left])
        mine = {i for column in taken for i in column}
        left = collections.deque(i for i in left if i not in mine)
        started = time.perf_counter()
        outcome = program(queue)
        seconds = round((time.perf_counter() - started) / len(mine), 3)
        for seed, column in enumerate(taken):
            for place, i in enumerate(column):
                start = Start(*(x[seed, place] for x in queue.start))
                one = Outcome(*(x[seed, place] for x in outcome))
                chunks = -(-int(one.steps) // restored.spec.chunk)
                path = np.concatenate([start.xy[None], one.path[:chunks]])
                yield (
                    i,
                    {
                        "return": float(one.total),
                        "length": int(one.steps),
                        "goal": [float(x) for x in start.goal],
                        "path": [[round(float(x), 2) for x in point] for point in path],
                        "success": float(one.success),
                        "seconds": seconds,
                    },
                )


def _queue(
    maze: PointMaze, restored: LoadedRun, places: int, episodes: Sequence[tuple[int, Episode]]
) -> tuple[Queue, list[list[int]]]:
    """The first `places` of each seed, and which they are."""
    seeds = restored.run.config["seeds"]
    taken: list[list[tuple[int, Episode]]] = [[] for _ in range(seeds)]
    for numbered in episodes:
        column = taken[numbered[1].seed]
        if len(column) < places:
            column.append(numbered)
    nowhere = maze.start(maze.name.tasks[0], 0)
    starts = jax.tree.map(lambda x: np.zeros((seeds, places, *x.shape), x.dtype), nowhere)
    identity = np.zeros((seeds, places, 2), np.int32)
    weight = np.zeros((seeds, places), np.float32)
    known: dict[tuple[int, int], Start] = {}
    for seed, column in enumerate(taken):
        for place, (_, one) in enumerate(column):
            key = (one.task, one.reset)
            known[key] = known.get(key) or maze.start(*key)
            for into, value in zip(starts, known[key], strict=True):
                into[seed, place] = value
            identity[seed, place] = (one.task, one.number)
            weight[seed, place] = one.weight
    count = np.array([len(column) for column in taken], np.int32)
    return Queue(starts, identity, weight, count), [[i for i, _ in column] for column in taken]
