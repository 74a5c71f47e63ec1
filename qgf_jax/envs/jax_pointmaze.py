"""The benchmark's point mazes as pure functions of one state and one action. An approximation.

The real simulator moves a ball by a fifth of the action and then lets MuJoCo push it out of walls, for
0.1 s of soft contact. Here the push has a closed form, exact to rounding with one contact and close with
more: `_push`. Everything else, from the walls to the noise of the start, is as in the real one
(`mazes`), and the episode of a seed starts where that does, to the same numbers. Neither the benchmark
nor MuJoCo need be installed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.envs import mazes
from qgf_jax.envs.families import EnvName
from qgf_jax.errors import UserError

Array = jax.Array

SCENES = tuple(mazes.MAZES)

_EXITS = 128  # drawn for an episode: from an exit it is 9 steps to the nearest entrance

# Measured in MuJoCo 3.17 (`benchmarks/jax_pointmaze.py` says what is left): shares of a depth.
_GAIN = 0.8227848  # that one contact takes back in a step
_INNER = (0.35, 0.46, 3.5)  # in an inner corner the shallower wall: of the deeper's, its own, most
_BESIDE = (0.20, 0.28)  # a corner beside a touched wall: along its normal, along the wall


class Start(NamedTuple):
    """All that an episode draws, so that playing it draws nothing."""

    xy: Any
    """[2]"""
    goal: Any
    """[2]"""
    exits: Any
    """[E] int32, by which exit each teleport leaves, in order; [0] in a maze without"""


class State(NamedTuple):
    """Of one episode under way."""

    xy: Array
    goal: Array
    exits: Array
    teleports: Array
    """[] int32, so far"""
    steps: Array
    """[] int32, so far"""


class PointMaze:
    """The maze of a name, for all its tasks. `draw`, `reset` and `step` are pure: `vmap` outside.

    Raises `UserError` if there is no such simulator for the name.
    """

    action_dim = 2

    def __init__(self, name: Any):
        self.name: Any = EnvName.parse(name) if isinstance(name, str) else name
        maze: mazes.Maze | None = self.name.maze
        if maze is None:
            raise UserError(
                f"{self.name.scene}-{self.name.version} has no simulator on the device, only "
                f"{', '.join(SCENES)} have: leave --envs=jax out"
            )
        self.maze = maze
        self.limit = mazes.LIMIT
        """Steps of an episode at most."""
        self.obs_width = 4 if self.name.goals else 2
        self._walls = ~maze.free
        # A single task ends when the state before a step was at the goal, as its rewards say.
        self._before, self._penalty = not self.name.goals, 0.0 if self.name.goals else 1.0
        self._tasks = maze.centre(np.array(maze.tasks))  # [5, 2, 2]
        self._spread = np.array([[mazes.SPREAD], [mazes.SPREAD if self.name.goals else 0.0]])
        self._entrances, self._doors = (
            maze.centre(np.array(some).reshape(-1, 2)).astype(np.float32)
            for some in (maze.entrances, maze.exits)
        )

    def start(self, task: int, seed: int) -> Start:
        """The episode `seed` of a task as the real environment starts it. Not on the device.

        The real environment draws from NumPy's global generator: the start, the goal if that has
        noise, and later, whenever the ball enters a teleport, the exit.
        """
        draw = np.random.RandomState(seed)
        noise = np.zeros((2, 2))
        for which in range(2 if self._spread[1, 0] else 1):
            noise[which] = draw.uniform(-1.0, 1.0, 2)
        xy, goal = (self._tasks[task - 1] + self._spread * noise).astype(np.float32)
        doors = len(self._doors)
        exits = [draw.randint(doors) for _ in range(_EXITS)] if doors else []
        return Start(xy, goal, np.array(exits, np.int32))

    def draw(self, task: Array | int, key: Array) -> Start:
        """An episode of a task from the same distribution, on the device; the real one has no such."""
        of_noise, of_exits = jax.random.split(key)
        noise = jax.random.uniform(of_noise, (2, 2), minval=-1.0, maxval=1.0)
        xy, goal = jnp.asarray(self._tasks)[task - 1] + jnp.asarray(self._spread) * noise
        doors = len(self._doors)
        exits = jax.random.randint(of_exits, (_EXITS * (doors > 0),), 0, max(doors, 1))
        return Start(xy, goal, exits)

    def reset(self, start: Start) -> tuple[State, Array]:
        """(state, first observation [O])."""
        zero = jnp.zeros((), jnp.int32)
        state = State(*map(jnp.asarray, start), teleports=zero, steps=zero)
        return state, self._observe(state)

    def step(self, state: State, action: Array) -> tuple[State, Array, Array, Array, Array]:
        """(state, observation [O], reward [], whether the episode is over [], success []).

        `action` [2] lies in [-1, 1]. As in the real environment the observation of a step into a
        teleport is the entrance: only the next one starts from the exit.
        """
        xy = self._push(state.xy + mazes.SPEED * action)
        success = _distance(state.xy if self._before else xy, state.goal) <= mazes.TOLERANCE
        state = state._replace(xy=xy, steps=state.steps + 1)
        done = success | (state.steps >= self.limit)
        reward = success.astype(jnp.float32) - self._penalty
        return self._teleport(state), self._observe(state), reward, done, success

    def _observe(self, state: State) -> Array:
        return jnp.concatenate([state.xy, state.goal]) if self.name.goals else state.xy

    def _teleport(self, state: State) -> State:
        if not len(self._doors):
            return state
        near = jax.vmap(lambda entrance: _distance(state.xy, entrance))(self._entrances)
        inside = (near <= mazes.REACH * mazes.TELEPORT_RADIUS).any()
        way_out = jnp.asarray(self._doors)[state.exits[state.teleports % _EXITS]]
        return state._replace(
            xy=jnp.where(inside, way_out, state.xy),
            teleports=state.teleports + inside.astype(jnp.int32),
        )

    def _push(self, xy: Array) -> Array:
        """`xy` [2] after what walls do to a ball there.

        In a cell three neighbours can touch it: one beside each axis, with a face, and the one between
        them, with a corner. A contact takes back `_GAIN` of its depth, along its normal. Of two faces
        the deeper does as if alone; a corner counts little beside one face, not at all between two.
        """
        walls, cell = jnp.asarray(self._walls), jnp.round((xy + mazes.OFFSET) / mazes.UNIT)
        inward = xy - (cell * mazes.UNIT - mazes.OFFSET)
        away = jnp.where(inward >= 0, -1, 1)
        gap = mazes.UNIT / 2 - jnp.abs(inward)
        (column, row), (x, y) = cell.astype(int), cell.astype(int) - away
        depth = self._depth(gap, jnp.stack([walls[row, x], walls[y, column]]))
        deeper, own, most = _INNER
        other, distance = depth[::-1], jnp.maximum(jnp.hypot(*gap), 1e-6)
        shallow = jnp.minimum(most * depth, deeper * other + own * depth)
        face = jnp.where(depth >= other, _GAIN * depth, shallow)
        corner, touched = self._depth(distance, walls[y, x]) * gap / distance, depth > 0
        along = jnp.where(touched, 0.0, corner).sum()
        beside = jnp.where(touched, _BESIDE[0], _BESIDE[1]) * along
        alone = _GAIN * corner
        corner = jnp.where(touched.any(), jnp.where(touched.all(), 0.0, beside), alone)
        return xy + away * (face + corner)

    def _depth(self, gap: Array, wall: Array) -> Array:
        return jnp.where(wall, jnp.maximum(mazes.RADIUS - gap, 0.0), 0.0)


def _distance(a: Array, b: Any) -> Array:
    return jnp.hypot(*(a - b))
