"""One episode of OGBench's scripted experts, as the benchmark's own datasets were made. No JAX.

The actions of an episode come from a generator function of (env, rng) that yields an action and is
sent (obs, info) after it; everything random comes from `rng` and from NumPy's global generator, both
seeded by the caller.
"""

import functools
import warnings
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from qgf_jax.envs import mazes, ogbench
from qgf_jax.envs.families import ON_DEVICE, SIMULATORS
from qgf_jax.errors import UserError

_STACKING = {  # scene -> range of the chance that a new target is on top of another cube
    "cube-single": (0.0, 0.0),
    "cube-double": (0.0, 0.25),
    "cube-triple": (0.05, 0.35),
    "cube-quadruple": (0.1, 0.5),
    "cube-octuple": (0.0, 0.35),
    "scene": (0.5, 0.5),
    "puzzle-3x3": (0.5, 0.5),
    "puzzle-4x4": (0.5, 0.5),
    "puzzle-4x5": (0.5, 0.5),
    "puzzle-4x6": (0.5, 0.5),
}
SCENES = (*mazes.MAZES, *_STACKING)
"""Those with an expert."""
_PUBLISHED_ONLY = ("antmaze", "humanoidmaze", "antsoccer")
"""Published by OGBench, and walked by policies that it does not ship."""
_ARM_KINDS = ("play", "noisy")

_Columns = dict[str, np.ndarray]
_Steps = Generator[np.ndarray, tuple[np.ndarray, dict[str, Any]], None]


class Expert:
    """The expert of a name and the environment that its data are collected in."""

    @staticmethod
    def is_published_only(name: Any) -> bool:
        """Whether OGBench has such a dataset for download, of which no expert is shipped."""
        return name.scene.startswith(_PUBLISHED_ONLY) and name.kind in mazes.EXPERT_KINDS

    @staticmethod
    def check(name: Any, simulator: str = SIMULATORS[0]) -> None:
        """Raises `UserError` unless a name's scene and kind have an expert, in that simulator."""
        scene, on_device = name.scene, simulator == ON_DEVICE
        if simulator not in SIMULATORS:
            raise UserError.unknown("simulator", simulator, SIMULATORS)
        if scene.startswith(("visual-", "powderworld")):
            raise UserError(
                f"{scene} has pixels for observations, which are not supported: no data made"
            )
        if scene.startswith(_PUBLISHED_ONLY):
            raise UserError(
                f"{scene} needs a trained low-level policy that no package ships: it cannot be collected"
            )
        scenes = tuple(mazes.MAZES) if on_device else SCENES
        if scene not in scenes:
            raise UserError.unknown("environment to collect from", scene, scenes)
        kinds = mazes.EXPERT_KINDS if scene in mazes.MAZES else _ARM_KINDS
        if name.kind not in kinds:
            raise UserError.unknown(f"kind of {scene} data", name.kind, kinds)
        if not on_device:
            ogbench.FAMILY.require()

    def __init__(self, name: Any):
        self._name = name

    @functools.cached_property
    def _env(self) -> Any:
        warnings.filterwarnings("ignore", module="gymnasium")
        scene, kind, env_id = self._name.scene, self._name.kind, self._name.env_id
        if maze := mazes.MAZES.get(scene):
            return ogbench.FAMILY.gym(
                env_id, terminate_at_goal=False, max_episode_steps=maze.expert_length(kind)
            )
        return ogbench.FAMILY.gym(
            env_id, terminate_at_goal=False, mode="data_collection", max_episode_steps=1001
        )

    def episode(self, seed: int) -> _Columns:
        """The columns of one episode, a function of `seed` alone."""
        scene, kind = self._name.scene, self._name.kind
        while True:
            rng = np.random.default_rng(seed)
            rows = _record(self._env, scene, kind, seed, rng)
            if scene != "scene" or not _out_of_sight(rows["qpos"]):
                return rows
            seed = int(
                rng.integers(2**31)
            )  # the cube left the table: another try, reproducible too


def _record(env: Any, scene: str, kind: str, seed: int, rng: np.random.Generator) -> _Columns:
    actions: Callable[..., _Steps] = _maze if scene in mazes.MAZES else _manipulation
    options = _maze_task(scene, kind, rng) if scene in mazes.MAZES else None
    obs, info = ogbench.FAMILY.reset(env, seed, **({"options": options} if options else {}))
    steps = actions(env, scene, kind, rng, obs, info)
    action = next(steps)
    columns: dict[str, list[Any]] = {}
    while True:
        action = np.clip(action, -1.0, 1.0).astype(np.float32)
        next_obs, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        row = {"observations": obs, "actions": action, "terminals": done}
        row |= {"qpos": info["prev_qpos"], "qvel": info["prev_qvel"]}
        if "prev_button_states" in info:
            row["button_states"] = info["prev_button_states"]
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
        if done:
            break
        obs = next_obs
        action = steps.send((obs, info))
    kinds = {"terminals": bool, "button_states": np.int64}
    return {key: np.array(rows, kinds.get(key, np.float32)) for key, rows in columns.items()}


def _manipulation(
    env: Any, scene: str, kind: str, rng: np.random.Generator, obs: np.ndarray, info: dict
) -> _Steps:
    p_stack = rng.uniform(*_STACKING[scene])
    experts = _oracles(env, scene, kind)
    noise = rng.uniform(0.0, 0.1)
    p_random = 0.2 if scene.startswith("puzzle") else 0.1

    def pick(info: dict) -> Any:
        return experts[info["privileged/target_task"] if len(experts) > 1 else next(iter(experts))]

    expert = pick(info)
    expert.reset(obs, info)
    while True:
        action = np.asarray(expert.select_action(obs, info))
        if kind == "noisy":
            if rng.uniform() < p_random:
                action = rng.uniform(-1.0, 1.0, size=5)
            else:
                action = action + rng.normal(0.0, noise * np.array([1.0, 1.0, 1.0, 3.0, 10.0]))
        obs, info = yield action
        if expert.done:
            obs, info = env.unwrapped.set_new_target(p_stack=p_stack)
            expert = pick(info)
            expert.reset(obs, info)


def _oracles(env: Any, scene: str, kind: str) -> dict[str, Any]:
    """The experts of a scene by the name of the target they pursue."""
    if kind == "play":
        from ogbench.manipspace.oracles.plan import button_plan as button
        from ogbench.manipspace.oracles.plan import cube_plan as cube
        from ogbench.manipspace.oracles.plan import drawer_plan as drawer
        from ogbench.manipspace.oracles.plan import window_plan as window

        suffix, common = "PlanOracle", {"env": env, "noise": 0.1, "noise_smoothing": 0.5}
    else:
        from ogbench.manipspace.oracles.markov import button_markov as button
        from ogbench.manipspace.oracles.markov import cube_markov as cube
        from ogbench.manipspace.oracles.markov import drawer_markov as drawer
        from ogbench.manipspace.oracles.markov import window_markov as window

        suffix, common = "MarkovOracle", {"env": env, "min_norm": 0.4}
    if scene.startswith("cube"):
        return {"cube": getattr(cube, f"Cube{suffix}")(**common)}
    if scene.startswith("puzzle"):
        return {"button": getattr(button, f"Button{suffix}")(gripper_always_closed=True, **common)}
    patience = {"max_step": 100} if kind == "noisy" else {}
    return {
        "cube": getattr(cube, f"Cube{suffix}")(**patience, **common),
        "button": getattr(button, f"Button{suffix}")(**common),
        "drawer": getattr(drawer, f"Drawer{suffix}")(**common),
        "window": getattr(window, f"Window{suffix}")(**common),
    }


def _out_of_sight(qpos: np.ndarray) -> bool:
    y, z = qpos[:, 15], qpos[:, 16]
    return bool(np.any((y >= 0.29) | ((y <= -0.3) & ((z < 0.06) | (z > 0.08)))))


def _maze_task(scene: str, kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """Where an episode starts, and where it first heads."""
    maze = mazes.MAZES[scene]
    start = maze.cells[rng.integers(len(maze.cells))]
    goals = maze.expert_goals(kind, start)
    goal = goals[rng.integers(len(goals))]
    return {"task_info": {"init_ij": start, "goal_ij": goal}}


def _maze(
    env: Any, scene: str, kind: str, rng: np.random.Generator, obs: np.ndarray, info: dict
) -> _Steps:
    maze, step, vertices = env.unwrapped, 0, mazes.MAZES[scene].vertices
    direction = np.zeros(2)
    while True:
        if kind != "explore":
            xy = maze.get_xy()
            direction = maze.get_oracle_subgoal(xy, maze.cur_goal_xy)[0] - xy
        elif step % mazes.EXPERT_STRAIGHT == 0:
            direction = rng.normal(size=2)
        direction = direction / (np.linalg.norm(direction) + 1e-6)
        _, info = yield direction + rng.normal(0.0, mazes.EXPERT_NOISE, size=2)
        step += 1
        if kind == "navigate" and info["success"]:
            maze.set_goal(goal_ij=vertices[rng.integers(len(vertices))])
