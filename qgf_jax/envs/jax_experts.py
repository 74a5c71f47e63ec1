"""Episodes of the scripted expert in the point mazes that are simulated on the device.

The expert is the benchmark's, and the walls are those of `jax_pointmaze`: an approximation of the
benchmark's data that needs neither its package nor MuJoCo, and takes seconds.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.envs import mazes
from qgf_jax.envs.jax_pointmaze import PointMaze, Start
from qgf_jax.runtime import backend

Array = jax.Array

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


class MazeExperts:
    """The expert of one kind in a maze, for many episodes at once."""

    def __init__(self, maze: PointMaze, kind: str):
        self._maze, self._kind = maze, kind

    @backend.standardized
    def episodes(self, *, seed: int, split: int, count: int) -> dict[str, np.ndarray]:
        """`count` episodes one after another, each a function of (seed, split, its index).

        The columns are those of the benchmark's files but `qvel`: a ball has no speed here. One
        more, `simulator`, says where they come from.
        """
        root = jax.random.fold_in(jax.random.key(seed), split)
        batches: list[Any] = []
        for first in range(0, count, _AT_ONCE):
            keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(first + jnp.arange(_AT_ONCE))
            batches.append([np.asarray(x)[: count - first] for x in self._program(keys)])
        xy, action = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        terminals = np.zeros(xy.shape[:2], bool)
        terminals[:, -1] = True
        rows = xy.reshape(-1, 2)
        return {
            "observations": rows,
            "actions": action.reshape(-1, 2),
            "terminals": terminals.ravel(),
            "qpos": rows,
            "simulator": np.array("jax"),
        }

    @functools.cached_property
    def _program(self) -> Any:
        """(keys [N]) -> states and actions [N, T, 2]."""
        maze, kind = self._maze, self._kind
        steps, ways = maze.maze.expert_length(kind), _ways(maze.maze, kind)

        def episode(key: Array) -> tuple[Array, Array]:
            keys = jax.random.split(key, 6)
            square = jax.random.randint(keys[0], (), 0, len(ways.centre))
            goal = jax.random.choice(keys[1], ways.goals[square])
            exits = maze.draw(1, keys[2]).exits
            start = Start(
                _within(ways.centre[square], keys[3]), _within(ways.centre[goal], keys[4]), exits
            )
            carry = (maze.reset(start)[0], goal, jnp.zeros(2))
            step = functools.partial(_step, maze, kind, ways, keys[5])
            return jax.lax.scan(step, carry, jnp.arange(steps))[1]

        return jax.jit(jax.vmap(episode))


def _step(
    maze: PointMaze, kind: str, ways: _Ways, key: Array, carry: Any, at: Array
) -> tuple[Any, tuple[Array, Array]]:
    """One step of an episode: (state, square of the goal, direction) and the number of the step."""
    state, goal, direction = carry
    keys = jax.random.split(jax.random.fold_in(key, at), 4)
    if kind == "explore":
        fresh = jax.random.normal(keys[0], (2,))
        direction = jnp.where(at % mazes.EXPERT_STRAIGHT == 0, fresh, direction)
    else:
        column, row = jnp.round((state.xy + mazes.OFFSET) / mazes.UNIT).astype(int)
        direction = ways.subgoals[goal, row, column] - state.xy
    direction = direction / (jnp.hypot(*direction) + 1e-6)
    noise = mazes.EXPERT_NOISE * jax.random.normal(keys[1], (2,))
    action = jnp.clip(direction + noise, -1.0, 1.0)
    after, _, _, _, success = maze.step(state, action)
    if kind == "navigate":
        chosen = jax.random.choice(keys[2], ways.vertices)
        goal = jnp.where(success, chosen, goal)
        moved = _within(ways.centre[chosen], keys[3])
        after = after._replace(goal=jnp.where(success, moved, after.goal))
    return (after, goal, direction), (state.xy, action)


def _within(centre: Array, key: Array) -> Array:
    """A place [2] in the middle of a square, as a start or a goal is drawn."""
    return centre + mazes.SPREAD * jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)


def _ways(maze: mazes.Maze, kind: str) -> _Ways:
    cells = maze.cells
    goals = [maze.expert_goals(kind, cell) for cell in cells]
    # As often as all of them fit a whole number of times, so that each is as likely as it was.
    width = int(np.lcm.reduce([len(some) for some in goals]))
    numbers = {cell: i for i, cell in enumerate(cells)}
    return _Ways(
        centre=jnp.asarray(maze.centre(np.array(cells)), jnp.float32),
        goals=jnp.array([[numbers[c] for c in some] * (width // len(some)) for some in goals]),
        subgoals=jnp.asarray(np.stack([maze.subgoals(c) for c in cells]), jnp.float32),
        vertices=jnp.array([numbers[cell] for cell in maze.vertices]),
    )
