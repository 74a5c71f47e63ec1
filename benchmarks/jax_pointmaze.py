"""The point maze on the device beside the real one: speed, error, and a whole evaluation in both.

    python benchmarks/jax_pointmaze.py

Steps a CPU-second of the simulators alone: many environments at once on the device against a loop over
one real environment, resets left out. The error of one step: after a walk of the real one that presses
against walls. Then a checkpoint is evaluated in both, compilation and start of the workers left out:
`--workdir`, which is copied, or a small one trained on the spot.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--env", default="pointmaze-medium-navigate-v0", help="of the simulators alone")
parser.add_argument("--many", type=int, default=1024, help="environments at once on the device")
parser.add_argument("--steps", type=int, default=4000, help="of the real environment")
parser.add_argument("--workdir", help="a run of a point maze; else one is trained")
parser.add_argument("--train_steps", type=int, default=6000, help="where one is trained")
parser.add_argument("--episodes", type=int, default=8, help="report episodes an arm")
parser.add_argument("--weights", default="3,10,30")
parser.add_argument("--tasks", default="", help="else the run's own")
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
common.limit_threads(flags.threads)

import jax
import numpy as np

from qgf_jax import config as configs
from qgf_jax.data.collect import collect
from qgf_jax.envs import ogbench
from qgf_jax.envs.jax_pointmaze import SCENES, PointMaze
from qgf_jax.evaluation import evaluate
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.simulators import Usage
from qgf_jax.runs.files import Lines
from qgf_jax.training.loop import pretrain


def walk(scene: str, steps: int) -> tuple[np.ndarray, ...]:
    """(before, action, after) [N, 2] in the real maze, and the CPU seconds of stepping it."""
    env = ogbench.FAMILY.gym(f"{scene}-v0", terminate_at_goal=False, max_episode_steps=10**9)
    ogbench.FAMILY.reset(env, 0)
    maze, rng = env.unwrapped, np.random.default_rng(0)
    cells, rows, seconds = np.argwhere(maze.maze_map == 0), [], 0.0
    for t in range(steps):
        if t % 100 == 0:
            maze.set_xy(np.array(maze.ij_to_xy(cells[rng.integers(len(cells))])))
        if t % 20 == 0:
            ahead = rng.standard_normal(2)
        action = np.clip(ahead + rng.normal(0.0, 0.5, 2), -1, 1).astype(np.float32)
        before, started = maze.data.qpos.copy(), time.process_time()
        after = env.step(action)[0]
        seconds += time.process_time() - started
        rows.append((before, action, after))
    return *map(np.array, zip(*rows, strict=True)), np.array(seconds)


def error(scene: str) -> tuple[dict[str, float], float]:
    """Of one step, and steps a CPU-second of the real simulator."""
    before, action, after, seconds = walk(scene, flags.steps)
    maze = PointMaze(f"{scene}-navigate-v0")
    state, _ = maze.reset(maze.start(1, 0))

    def moved(xy: Any, action: Any) -> Any:
        return maze.step(state._replace(xy=xy), action)[1][:2]

    found = np.asarray(jax.jit(jax.vmap(moved))(before.astype(np.float32), action))
    wrong = np.linalg.norm(found - after, axis=1)
    contact = np.linalg.norm(after - before - 0.2 * action, axis=1) > 1e-9
    figures = {
        "steps_in_contact": float(contact.mean()),
        "free_max": float(wrong[~contact].max()),
        "contact_mean": float(wrong[contact].mean()),
        "contact_p99": float(np.percentile(wrong[contact], 99)),
        "contact_max": float(wrong[contact].max()),
    }
    return figures, flags.steps / float(seconds)


def device_rate() -> float:
    """Steps a CPU-second of the simulator on the device, with actions that are there already."""
    maze = PointMaze(flags.env)
    keys = jax.random.split(jax.random.key(0), flags.many)
    start = jax.vmap(lambda key: maze.reset(maze.draw(1, key))[0])(keys)
    actions = jax.random.uniform(jax.random.key(1), (200, flags.many, 2), minval=-1.0)

    @jax.jit
    def roll(state: Any, actions: Any) -> Any:
        def one(state: Any, action: Any) -> Any:
            state, obs, reward, *_ = jax.vmap(maze.step)(state, action)
            return state, (reward.sum(), obs.sum())

        return jax.lax.scan(one, state, actions)

    jax.block_until_ready(roll(start, actions))
    seconds = common.least_cpu_seconds(lambda: jax.block_until_ready(roll(start, actions)), 5)
    return actions.shape[0] * flags.many / seconds


def trained(folder: Path) -> Path:
    config = configs.make("qgf")
    config.env = "pointmaze-medium-navigate-singletask-task1-v0"
    config.data.update(dir=str(folder), chunk=10, standardize=True)
    config.networks.update(policy_hidden=(64,) * 3, critic_hidden=(64,) * 3)
    config.train.update(steps=flags.train_steps, save_every=flags.train_steps)
    collect(ogbench.FAMILY.parse(config.env).dataset, 60, folder, workers=2)
    return pretrain(configs.plain(config), folder / "run")


def evaluated(workdir: Path, simulator: str, envs: int) -> tuple[Usage, dict[Any, Any]]:
    sweep = Arm.sweep(["reference", "qgf"], [float(w) for w in flags.weights.split(",")])
    tasks = [int(task) for task in flags.tasks.split(",") if task]
    usage = evaluate.evaluate(
        workdir,
        sweep,
        episodes=flags.episodes,
        selection_episodes=0,
        tasks=tasks,
        envs=envs,
        workers=2,
        simulator=simulator,
    )
    device = simulator == "jax"
    lines = [
        x for x in Lines.read(workdir / "episodes.jsonl").records if ("(jax)" in x["env"]) == device
    ]
    key = ("method", "weight", "task", "episode", "seed")
    return usage, {tuple(line[k] for k in key): line for line in lines}


def by_arm(lines: dict[Any, Any]) -> dict[str, float]:
    arms: dict[str, list[float]] = {}
    for (method, weight, *_), line in lines.items():
        arms.setdefault(f"{method} {weight:g}", []).append(line["success"])
    return {arm: float(np.mean(successes)) for arm, successes in sorted(arms.items())}


def main() -> None:
    errors, rates = zip(*map(error, SCENES), strict=True)
    real_rate, rate = rates[SCENES.index(ogbench.FAMILY.parse(flags.env).scene)], device_rate()
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "copy"
        shutil.copytree(flags.workdir or trained(Path(folder)), workdir)
        (workdir / "episodes.jsonl").unlink(missing_ok=True)
        ours, on_device = evaluated(workdir, "jax", 64)
        theirs, real = evaluated(workdir, "mujoco", 64)
    same = [(on_device[k], real[k]) for k in real]
    common.show(
        {
            "steps_per_cpu_second": rate,
            "simulator_steps_per_cpu_second": real_rate,
            "ratio": rate / real_rate,
            "error": dict(zip(SCENES, errors, strict=True)),
            "evaluation": {
                "episodes": len(real),
                "cpu_seconds": [ours.cpu_seconds, theirs.cpu_seconds],
                "ratio_of_cpu_seconds": theirs.cpu_seconds / ours.cpu_seconds,
                "env_steps": [ours.env_steps, theirs.env_steps],
                "success": {"jax": by_arm(on_device), "mujoco": by_arm(real)},
                "same_success": float(np.mean([a["success"] == b["success"] for a, b in same])),
                "same_length": float(np.mean([a["length"] == b["length"] for a, b in same])),
            },
            **{k: getattr(flags, k) for k in ("env", "many", "steps", "episodes", "threads")},
            **common.machine(),
        }
    )


if __name__ == "__main__":
    main()
