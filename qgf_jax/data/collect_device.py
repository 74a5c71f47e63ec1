"""Episodes of the scripted expert in the point mazes that are simulated on the device.

The expert is that of `experts`, and the walls are those of `envs.jax_pointmaze`: an approximation of
the benchmark's data that needs neither OGBench nor MuJoCo, and takes seconds.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.data import experts
from qgf_jax.envs import mazes
from qgf_jax.envs.jax_pointmaze import PointMaze, Start
from qgf_jax.runtime import backend
from qgf_jax.types import Array

_AT_ONCE = 256
"""Episodes of one call: one shape, so one compilation."""


class _Ways(NamedTuple):
    """Tables of a maze, whose free squares are numbered from 0 to F - 1."""

    centre: Array
    """[F, 2] x and y"""
    goals: Array
    """[F, G] squares that an episode which starts there may head for first, repeated to fill up"""
    subgoals: Array
    """[F, rows, columns, 2] x and y to head for in a square, where the goal is in square F"""
    vertices: Array
    """[V] squares of later goals"""


@backend.standardized
def episodes(
    scene: str, kind: str, version: str, *, seed: int, split: int, count: int
) -> experts.Rows:
    """`count` episodes one after another, each a function of (seed, split, its index).

    The columns are those of the benchmark's files but `qvel`: a ball has no speed here.
    """
    program = _compile(scene, kind, version)
    root = jax.random.fold_in(jax.random.key(seed), split)
    found: list[Any] = []
    for first in range(0, count, _AT_ONCE):
        keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(first + jnp.arange(_AT_ONCE))
        found.append([np.asarray(x)[: count - first] for x in program(keys)])
    xy, action = (np.concatenate(parts) for parts in zip(*found, strict=True))
    terminals = np.zeros(xy.shape[:2], bool)
    terminals[:, -1] = True
    rows = xy.reshape(-1, 2)
    return {
        "observations": rows,
        "actions": action.reshape(-1, 2),
        "terminals": terminals.ravel(),
        "qpos": rows,
    }


@functools.cache
def _compile(scene: str, kind: str, version: str) -> Any:
    """(keys [N]) -> states and actions [N, T, 2]."""
    maze, steps = PointMaze(f"{scene}-{kind}-{version}"), experts.rows_of(scene, kind)
    ways = _ways(maze.maze, kind)

    def one(key: Array) -> tuple[Array, Array]:
        keys = jax.random.split(key, 6)
        square = jax.random.randint(keys[0], (), 0, len(ways.centre))
        goal = jax.random.choice(keys[1], ways.goals[square])
        exits = maze.draw(1, keys[2]).exits
        start = Start(
            _within(ways.centre[square], keys[3]), _within(ways.centre[goal], keys[4]), exits
        )
        carry = (maze.reset(start)[0], goal, jnp.zeros(2))
        return jax.lax.scan(functools.partial(step, keys[5]), carry, jnp.arange(steps))[1]

    def step(key: Array, carry: Any, at: Array) -> tuple[Any, tuple[Array, Array]]:
        state, goal, direction = carry
        keys = jax.random.split(jax.random.fold_in(key, at), 4)
        if kind == "explore":
            fresh = jax.random.normal(keys[0], (2,))
            direction = jnp.where(at % experts.STRAIGHT == 0, fresh, direction)
        else:
            column, row = jnp.round((state.xy + mazes.OFFSET) / mazes.UNIT).astype(int)
            direction = ways.subgoals[goal, row, column] - state.xy
        direction = direction / (jnp.hypot(*direction) + 1e-6)
        noise = experts.NOISE * jax.random.normal(keys[1], (2,))
        action = jnp.clip(direction + noise, -1.0, 1.0)
        after, _, _, _, success = maze.step(state, action)
        if kind == "navigate":
            chosen = jax.random.choice(keys[2], ways.vertices)
            goal = jnp.where(success, chosen, goal)
            moved = _within(ways.centre[chosen], keys[3])
            after = after._replace(goal=jnp.where(success, moved, after.goal))
        return (after, goal, direction), (state.xy, action)

    return jax.jit(jax.vmap(one))


def _within(centre: Array, key: Array) -> Array:
    """A place [2] in the middle of a square, as a start or a goal is drawn."""
    return centre + mazes.SPREAD * jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)


def _ways(maze: mazes.Maze, kind: str) -> _Ways:
    free = maze.free
    cells, vertices = mazes.cells(free), mazes.vertices(free)
    goals = [experts.stitched(free, cell) if kind == "stitch" else vertices for cell in cells]
    # As often as all of them fit a whole number of times, so that each is as likely as it was.
    width = int(np.lcm.reduce([len(some) for some in goals]))
    numbers = {cell: i for i, cell in enumerate(cells)}
    return _Ways(
        centre=jnp.asarray(mazes.centre(np.array(cells)), jnp.float32),
        goals=jnp.array([[numbers[c] for c in some] * (width // len(some)) for some in goals]),
        subgoals=jnp.asarray(np.stack([mazes.subgoals(free, c) for c in cells]), jnp.float32),
        vertices=jnp.array([numbers[cell] for cell in vertices]),
    )
