"""One episode of OGBench's scripted experts, as the benchmark's own datasets were made. No JAX.

An `Episode` is a generator function of (env, rng) that yields actions and is sent (obs, info) after
each; everything random comes from `rng` and from NumPy's global generator, both seeded by the caller.
"""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from qgf_jax.envs import mazes, ogbench
from qgf_jax.errors import UserError, unknown_name_error

MAZES = tuple(mazes.MAZES)
STACKING = {  # scene -> range of the chance that a new target is on top of another cube
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
NOT_SCRIPTED = ("antmaze", "humanoidmaze", "antsoccer")
"""Published by OGBench, and walked by policies that it does not ship."""
NOISE = 0.5
"""Standard deviation of what is added to an expert's action in a maze."""
STRAIGHT = 10
"""Steps in one direction, in a maze of kind explore."""
KINDS = {"maze": ("navigate", "stitch", "explore"), "manipulation": ("play", "noisy")}

Rows = dict[str, np.ndarray]
Steps = Generator[np.ndarray, tuple[np.ndarray, dict[str, Any]], None]


def check(scene: str, kind: str, simulator: str = "mujoco") -> None:
    """Raises `UserError` unless there is an expert for `scene` and `kind`, and the simulator for it."""
    if simulator not in ogbench.SIMULATORS:
        raise unknown_name_error("simulator", simulator, ogbench.SIMULATORS)
    on_device = simulator == ogbench.ON_DEVICE
    scenes = MAZES if on_device else (*MAZES, *STACKING)
    if scene.startswith("visual-"):
        raise UserError(
            f"{scene} has pixels for observations, which are not supported: no data made"
        )
    if scene.startswith(NOT_SCRIPTED):
        raise UserError(
            f"{scene} needs a trained low-level policy that no package ships: it cannot be collected"
        )
    if scene not in scenes:
        raise unknown_name_error("environment to collect from", scene, scenes)
    kinds = KINDS["maze" if scene in MAZES else "manipulation"]
    if kind not in kinds:
        raise unknown_name_error(f"kind of {scene} data", kind, kinds)
    if not on_device:
        ogbench.require()


def make_env(scene: str, kind: str, version: str) -> Any:
    """The environment that data is collected in."""
    if scene in MAZES:
        rows = rows_of(scene, kind)
        return ogbench.make(f"{scene}-{version}", terminate_at_goal=False, max_episode_steps=rows)
    return ogbench.make(
        f"{scene}-{version}",
        terminate_at_goal=False,
        mode="data_collection",
        max_episode_steps=1001,
    )


def episode(env: Any, scene: str, kind: str, seed: int) -> Rows:
    """One episode, a function of `seed` alone."""
    while True:
        rng = np.random.default_rng(seed)
        rows = _record(env, scene, kind, seed, rng)
        if scene != "scene" or not _out_of_sight(rows["qpos"]):
            return rows
        seed = int(rng.integers(2**31))  # the cube left the table: another try, still reproducible


def _record(env: Any, scene: str, kind: str, seed: int, rng: np.random.Generator) -> Rows:
    actions: Callable[..., Steps] = _maze if scene in MAZES else _manipulation
    options = _maze_task(env, kind, rng) if scene in MAZES else None
    obs, info = ogbench.reset(env, seed, **({"options": options} if options else {}))
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
) -> Steps:
    p_stack = rng.uniform(*STACKING[scene])
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


def rows_of(scene: str, kind: str) -> int:
    """Of an episode in a maze."""
    return 201 if kind == "stitch" else 2001 if scene == "pointmaze-giant" else 1001


def stitched(free: np.ndarray, start: mazes.Cell) -> list[mazes.Cell]:
    """The goals of an episode of kind stitch that begins in `start`: squares four steps away."""
    away = mazes.distances(free, start)
    return [cell for cell in mazes.cells(free) if away[cell] == 4]


def _maze_task(env: Any, kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """Where an episode starts, and where it first heads."""
    free = env.unwrapped.maze_map == 0
    cells = mazes.cells(free)
    start = cells[rng.integers(len(cells))]
    goals = stitched(free, start) if kind == "stitch" else mazes.vertices(free)
    goal = goals[rng.integers(len(goals))]
    return {"task_info": {"init_ij": start, "goal_ij": goal}}


def _maze(
    env: Any, scene: str, kind: str, rng: np.random.Generator, obs: np.ndarray, info: dict
) -> Steps:
    maze, step = env.unwrapped, 0
    vertices = mazes.vertices(maze.maze_map == 0)
    direction = np.zeros(2)
    while True:
        if kind != "explore":
            xy = maze.get_xy()
            direction = maze.get_oracle_subgoal(xy, maze.cur_goal_xy)[0] - xy
        elif step % STRAIGHT == 0:
            direction = rng.normal(size=2)
        direction = direction / (np.linalg.norm(direction) + 1e-6)
        _, info = yield direction + rng.normal(0.0, NOISE, size=2)
        step += 1
        if kind == "navigate" and info["success"]:
            maze.set_goal(goal_ij=vertices[rng.integers(len(vertices))])
