"""OGBench's point mazes on the device: pure functions of one state and one action, `vmap` outside.

An approximation. A step is a displacement, after which MuJoCo's soft contacts push the disc out of
the walls; here one formula does, fitted to MuJoCo's. Its error, against the real environment, is in
tests/test_jax_pointmaze.py: none in free space or at one wall, 0.0015 on average over steps with
contact, where a cell is 4 wide and a goal has radius 1. Layouts, tasks, timing and limits are read
from the installed OGBench.
"""

import contextlib
import functools
import random
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax.envs import ogbench
from qgf_jax.errors import UserError

Array = jax.Array
SIMULATOR = "jax"
"""The name that results carry."""
SCENES = ("pointmaze-medium", "pointmaze-large", "pointmaze-giant", "pointmaze-teleport")

_STRIDE = 0.2  # of an action of length 1
_GAIN = 0.8227  # share of a depth that the contacts of one step undo
# In a corner friction couples the two walls: (deeper, shallower) depth -> what each is undone by.
_DEEPER, _SHALLOWER = (0.845, -0.06), (0.27, 0.55)
_NEAR = 1.5  # entrances of a teleport draw from beyond their radius


class Maze(NamedTuple):
    """A layout and the rules of an environment: constants of a program. Positions are (x, y)."""

    walls: np.ndarray
    """[rows, columns] bool, closed all around"""
    unit: float
    """Width of a cell."""
    origin: np.ndarray
    """[2], the centre of cell (0, 0)"""
    radius: float
    """Of the disc."""
    tolerance: float
    """How near the goal is there."""
    limit: int
    """Steps of an episode."""
    goals: bool
    """Whether the goal is at the end of an observation, and being there is worth 1; else each step
    before the goal costs 1."""
    early: bool
    """Success is judged before the step, not after it (OGBench's `success_timing`)."""
    tasks: np.ndarray
    """[5, 2, 2]: of each task the centres of the first cell and of the goal's."""
    noise: tuple[float, float]
    """Half the width of the square around them, from which start and goal are drawn."""
    entrances: np.ndarray
    """[K, 2] of teleports"""
    exits: np.ndarray
    """[M, 2]"""
    reach: float
    """Of an entrance."""


class State(NamedTuple):
    """Of one episode."""

    xy: Array
    """[2]"""
    goal: Array
    """[2]"""
    steps: Array
    """[] int32, taken so far"""
    draws: Array
    """[limit] int8, which exit the n-th teleport leads to; [0] where there are none"""
    teleports: Array
    """[] int32, taken so far"""


class Outcome(NamedTuple):
    """What a step says."""

    obs: Array
    """[2], or [4] with the goal. Where a teleport was entered: from before it, as OGBench has it."""
    reward: Array
    done: Array
    """bool: at the goal, or at the limit"""
    success: Array
    """bool"""


def check(name: ogbench.Name) -> None:
    """Raises `UserError` unless the environment has a simulator on the device."""
    if name.scene not in SCENES:
        raise UserError(
            f"{name.scene} has no simulator on the device, only {', '.join(SCENES)} have: "
            "evaluate it with --envs=ogbench"
        )


@functools.cache
def read(name: ogbench.Name) -> Maze:
    """The maze of a name, as the installed OGBench has it; its task does not matter."""
    check(name)
    env = ogbench.World(name if name.task else name.with_task(1)).env
    maze, teleport = env.unwrapped, env.unwrapped._teleport_info or {}
    width = maze._noise * maze._maze_unit / 4
    tasks = [(task["init_xy"], task["goal_xy"]) for task in maze.task_infos]
    return Maze(
        walls=np.asarray(maze.maze_map) == 1,
        unit=float(maze._maze_unit),
        origin=np.array(maze.ij_to_xy((0, 0)), np.float32),
        radius=float(maze.model.geom("pointbody").size[0]),
        tolerance=float(maze._goal_tol),
        limit=int(env.spec.max_episode_steps),
        goals=bool(name.goals),
        early=maze._success_timing == "pre",
        tasks=np.array(tasks, np.float32),
        noise=(width, width * maze._add_noise_to_goal),
        entrances=np.array(teleport.get("teleport_in_xys", np.zeros((0, 2))), np.float32),
        exits=np.array(teleport.get("teleport_out_xys", np.zeros((0, 2))), np.float32),
        reach=teleport.get("teleport_radius", 0) * _NEAR,
    )


class Starts:
    """The first states of the real environment's episodes, from its own resets. Not on the device."""

    def __init__(self, name: ogbench.Name):
        self.name, self.maze = name, read(name)
        self._worlds: dict[int, ogbench.World] = {}

    def __call__(self, task: int, seed: int) -> State:
        """Of the episode `seed`, with the exits that its teleports will draw. NumPy arrays."""
        if task not in self._worlds:
            self._worlds[task] = ogbench.World(self.name.with_task(task))
        world, exits = self._worlds[task], len(self.maze.exits)
        with _global_generators():
            obs = world.reset(seed)
            draws = np.random.randint(exits, size=self.maze.limit) if exits else np.zeros(0)
        goal = np.array(ogbench.goal_position(world.env), np.float32)
        none = np.int32(0)
        return State(obs[:2].astype(np.float32), goal, none, draws.astype(np.int8), none)  # ty: ignore[invalid-argument-type]


@contextlib.contextmanager
def _global_generators() -> Generator[None]:
    """Leaves the global generators as they were."""
    ours, numpys = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)


def reset(maze: Maze, task: Any, key: Array) -> tuple[State, Array]:
    """(state, obs) of an episode of `task` 1 … 5, drawn on the device as OGBench draws it."""
    noise, draws = jax.random.split(key)
    spread = jnp.array(maze.noise, jnp.float32)[:, None]
    places = jnp.asarray(maze.tasks)[task - 1]
    start, goal = places + spread * jax.random.uniform(noise, (2, 2), minval=-1.0)
    count = len(maze.exits)
    numbers = jax.random.randint(draws, (maze.limit * (count > 0),), 0, max(count, 1), jnp.int8)
    state = State(start, goal, jnp.int32(0), numbers, jnp.int32(0))
    return state, observe(maze, state)


def observe(maze: Maze, state: State) -> Array:
    """[2], or [4] with the goal."""
    return jnp.concatenate([state.xy, state.goal]) if maze.goals else state.xy


def step(maze: Maze, state: State, action: Array) -> tuple[State, Outcome]:
    """One action [2] in [-1, 1]. Wants no step after the episode is over, and does not refuse it."""
    moved = state._replace(
        xy=push_out(maze, state.xy + _STRIDE * action), steps=state.steps + jnp.int32(1)
    )
    judged = state.xy if maze.early else moved.xy
    success = jnp.linalg.norm(judged - state.goal) <= maze.tolerance
    done = success | (moved.steps >= maze.limit)
    reward = success.astype(jnp.float32) - (0.0 if maze.goals else 1.0)
    return _teleport(maze, moved), Outcome(observe(maze, moved), reward, done, success)


def push_out(maze: Maze, xy: Array) -> Array:
    """Where the contacts of one step bring the disc at `xy` [2], whose centre is in no wall."""
    cell = jnp.round((xy - maze.origin) / maze.unit)
    away = xy - maze.origin - cell * maze.unit
    side = jnp.where(away >= 0, 1, -1)
    edge = maze.unit / 2 - jnp.abs(away)  # to the cell's nearer two edges, [x, y]
    j, i = cell.astype(jnp.int32)
    walls = jnp.asarray(maze.walls)
    faces = jnp.stack([walls[i, j + side[0]], walls[i + side[1], j]])
    depth = jnp.where(faces, jnp.maximum(maze.radius - edge, 0.0), 0.0)
    both = jnp.stack([depth.max(), depth.min()])
    corner = jnp.array([_DEEPER, _SHALLOWER], jnp.float32) @ both
    push = jnp.where(both[1] > 0, corner, _GAIN * both)
    flat = jnp.where(depth[0] >= depth[1], push, push[::-1])
    # No face touches, but where the edges meet, a block may stick out.
    distance = jnp.linalg.norm(edge)
    inside = jnp.where(walls[i + side[1], j + side[0]], maze.radius - distance, 0.0)
    pointed = _GAIN * jnp.maximum(inside, 0.0) * edge / jnp.maximum(distance, 1e-6)
    return xy - side * jnp.where(both[0] > 0, flat, pointed)


def _teleport(maze: Maze, state: State) -> State:
    if not len(maze.exits):
        return state
    near = jnp.linalg.norm(state.xy[None] - maze.entrances, axis=1) <= maze.reach
    inside = near.any()
    out = jnp.asarray(maze.exits)[state.draws[state.teleports]]
    return state._replace(
        xy=jnp.where(inside, out, state.xy), teleports=state.teleports + inside.astype(jnp.int32)
    )
