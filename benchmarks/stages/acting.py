"""Seconds of an action, alone and in a batch, and steps of a maze with the policy inside."""

import concurrent.futures
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax import config as configs
from qgf_jax.envs.jax_pointmaze import PointMaze
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.device import DeviceSimulator
from qgf_jax.evaluation.sweep import Job
from qgf_jax.methods import table as algorithms
from qgf_jax.methods.builder import Builder
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runs.run import Run
from qgf_jax.types import Spec
from stages import programs
from stages.record import Deadline, Results, describe_device

METHODS = (
    ("reference", 1),
    ("qgf", 1),
    ("best_of", 4),
    ("qgf_jacobian", 1),
    ("bptt", 1),
    ("best_of", 32),
)
BATCHES = (1, 50, 1000)
_SIZE = "4x512 batch 256"
_CALLS, _SECONDS = 1000, 0.5
_ENVS = 1024


def run(results: Results, deadline: Deadline, *, dry: bool) -> None:
    """Actions first, batch 1 before others; then the maze."""
    describe_device(results, dry=dry)
    batches, methods = (BATCHES[:1], METHODS[1:3]) if dry else (BATCHES, METHODS)
    made = programs.make(_SIZE, dry=dry)
    state = jax.device_put(programs.host_state(_SIZE, dry=dry))
    first = jax.tree.map(lambda x: x[0], (state.params, state.target_params))
    groups = algorithms.acting_params(*first)
    for batch in deadline.take(batches, results, "batches_left_out"):
        acts = _compile(made, groups, methods, batch)
        for label, (act, seconds) in acts.items():
            name = f"{label}, batch {batch}"
            with results.attempt(name):
                timed = latency(act, groups, made.spec, batch, dry=dry)
                results.put(name, {**timed, "compile_seconds": seconds})
    for method in deadline.take(("qgf", "reference")[: 2 - dry], results, "mazes_left_out"):
        with results.attempt(f"maze with {method} inside"):
            results.put(f"maze with {method} inside", maze_rate(method, dry=dry))


def label(method: str, best_of: int) -> str:
    """As in tables of methods."""
    return method if best_of == 1 else f"{method} {best_of}"


def _compile(
    made: programs.Made, groups: Any, methods: Any, batch: int
) -> dict[str, tuple[Any, float]]:
    """{label: (program, seconds)}, several at a time where there are cores for it."""
    keys = jax.random.split(jax.random.key(0), batch)
    obs = made.spec.observation(np.zeros((batch, made.spec.width), np.float32))
    lowered = {}
    config = made.config | {"precision": "tf32"}
    for method, n in methods:
        sample = Builder(config, made.spec).sample(method, n)
        act = jax.jit(jax.vmap(sample, in_axes=(None, 0, 0, None)))
        lowered[label(method, n)] = act.lower(groups, obs, keys, np.float32(1))

    def compiled(one: Any) -> tuple[Any, float]:
        started = time.perf_counter()
        return one.compile(), time.perf_counter() - started

    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return dict(zip(lowered, pool.map(compiled, lowered.values()), strict=True))


def latency(act: Any, groups: Any, spec: Spec, batch: int, *, dry: bool) -> dict[str, Any]:
    """From NumPy observations to NumPy actions, one call after another."""
    rows = np.random.default_rng(0).standard_normal((batch, spec.width)).astype(np.float32)
    obs = spec.observation(rows)
    keys, weight = jax.random.split(jax.random.key(0), batch), np.float32(0.1)
    for _ in range(3):
        np.asarray(act(groups, obs, keys, weight))
    most = 10 if dry else _CALLS
    seconds: list[float] = []
    cpu, started = time.process_time(), time.perf_counter()
    # A batch of one is called so often that its 99th percentile means something.
    while len(seconds) < most and (batch == 1 or time.perf_counter() - started < _SECONDS):
        before = time.perf_counter()
        np.asarray(act(groups, obs, keys, weight))
        seconds.append(time.perf_counter() - before)
    wall = time.perf_counter() - started
    p50, p99 = (1e3 * float(np.percentile(seconds, p)) for p in (50, 99))
    return {
        "calls": len(seconds),
        "p50_ms": p50,
        "p99_ms": p99,
        "chunks_per_second": batch * len(seconds) / wall,
        "host_cpu_ms_per_call": 1e3 * (time.process_time() - cpu) / len(seconds),
    }


def maze_rate(method: str, *, dry: bool) -> dict[str, Any]:
    """Steps a second of many episodes at once, policy and walls in one program."""
    maze = PointMaze("pointmaze-medium-navigate-singletask-task1-v0")
    envs = 4 if dry else _ENVS
    simulator = DeviceSimulator(_restored(maze, dry), maze, envs)
    arm = Arm(method, 0.1, 1)
    jobs = [Job((arm,), 0, 1, i) for i in range(4 * envs)]  # what one call takes
    best, program = float("inf"), jobs[0].acts_as.program
    started = time.perf_counter()
    with simulator.ready_for(jobs):
        compile_seconds = time.perf_counter() - started
        for _ in range(1 if dry else 2):  # the second one is warm
            started = time.perf_counter()
            steps = sum(result["length"] for _, result in simulator.play(program, jobs))
            best = min(best, time.perf_counter() - started)
    return {
        "envs": envs,
        "episodes": len(jobs),
        "steps": steps,
        "steps_per_second": steps / best,
        "seconds": best,
        "compile_seconds": compile_seconds,
    }


def _restored(maze: PointMaze, dry: bool) -> LoadedRun:
    """An untrained policy as if from a run."""
    config = configs.make("qgf")
    hidden = (16, 16) if dry else (512,) * 4
    config.networks.update(policy_hidden=hidden, critic_hidden=hidden)
    config.env, config.data.chunk = maze.name.full, 10
    plain, spec = configs.plain(config), Spec((maze.obs_width,), maze.action_dim, 10)
    state = jax.tree.map(jnp.asarray, programs.initial(plain, spec))
    run = Run(Path(), plain, spec._asdict(), {})
    return LoadedRun(run, spec, 0, algorithms.acting_params(state.params, state.target_params))
