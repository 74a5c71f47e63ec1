"""Films of evaluated episodes, played again in a process that renders.

Same initial state, same noise; but one episode at a time is another batch shape than the table's,
whose rounding may differ in the last bits, and a long episode may end differently for it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qgf_jax.envs import spaces
from qgf_jax.envs.families import EnvName, Family
from qgf_jax.errors import UserError, saving
from qgf_jax.evaluation.arms import Arm
from qgf_jax.evaluation.simulators import Result
from qgf_jax.evaluation.sweep import Job
from qgf_jax.evaluation.worker_pool import WorkerPool
from qgf_jax.runs.files import write_atomically
from qgf_jax.runs.loaded import LoadedRun
from qgf_jax.runtime import children

_SIZE = 240
_FRAMES = 60
"""At most, in one film; longer episodes are shown faster."""


def film(
    workdir: str | os.PathLike,
    arms: Sequence[Arm],
    episodes: int,
    *,
    tasks: Sequence[int] = (),
    step: int | None = None,
    out: str | os.PathLike | None = None,
) -> list[Path]:
    """Writes report/videos/METHOD_…_episodeN.gif for the first `episodes` report episodes an arm.

    In `workdir`, or in `out` as `evaluate` does. Raises `SaveError` if that cannot be done.
    """
    loaded = LoadedRun.open(workdir, step)
    name = loaded.run.env
    folder = Path(workdir if out is None else out) / "report" / "videos"
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
    player = WorkerPool(loaded, name, loaded.seeds, 1, keep_actions=True)
    jobs = [
        Job((arm,), 0, task, 2 * i + 1)
        for task in tasks or name.tasks for arm in arms for i in range(episodes)
    ]  # fmt: skip
    written = []

    def record(job: Job, result: Result) -> None:
        path = folder / f"{_title(job)}.gif"
        _film(name.with_task(job.task), job.reset_seed, result["actions"], path)
        written.append(path)

    player.rollout(jobs, record)
    return written


def _title(job: Job) -> str:
    """METHOD and all that tells one film from another, as in a file's name."""
    (arm,) = job.arms
    weight = f"_weight{arm.weight:g}" if arm.weight else ""
    n = f"_of{arm.best_of}" if arm.best_of > 1 else ""
    chosen = "".join(f"_{k}{v}" for k, v in arm.options)
    return f"task{job.task}_{arm.method}{chosen}{n}{weight}_episode{job.episode}"


def _film(world: EnvName, seed: int, actions: np.ndarray, path: Path) -> None:
    """Plays `actions` [N, A] from the episode `seed` and writes the GIF `path`, in its own process.

    Raises `UserError` if nothing can be drawn, `SaveError` if the file cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.gif"
        _render(world, seed, actions, film)
        write_atomically(path, film.read_bytes())


def _render(world: EnvName, seed: int, actions: np.ndarray, path: Path) -> None:
    Family.of(world).require()
    words = (world.full, json.dumps(world.parts), str(seed), str(path))
    command = children.command("qgf_jax.report.video", *words)
    environment = {"MUJOCO_GL": "egl"} | {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
    if os.environ.get("MUJOCO_GL") not in (None, "disable"):
        environment["MUJOCO_GL"] = os.environ["MUJOCO_GL"]
    data = actions.astype("<f4").tobytes()
    result = subprocess.run(command, input=data, capture_output=True, env=environment)
    if result.returncode:
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        _, refused, why = last[0].partition(f"{UserError.__name__}: ")
        if refused:
            raise UserError(f"no film of {world.full}: {why}")
        remedy = "install libegl1 and libgl1-mesa-dri, or set MUJOCO_GL=osmesa or glfw"
        if (chosen := environment["MUJOCO_GL"]) != "egl":
            remedy = f"MUJOCO_GL={chosen} does not draw here: unset it"
        if "pip install" in last[0]:
            remedy = "install it"
        raise UserError(f"no film of {world.full}: {last[0][:120]}: {remedy}")


def _main(text: str, parts: str, seed: str, path: str) -> None:
    from PIL import Image

    name = EnvName.parse(text).seen_as(spaces.named(json.loads(parts)))
    world = Family.of(name).rendered(name, _SIZE)
    actions = np.frombuffer(sys.stdin.buffer.read(), "<f4").reshape(-1, world.action_dim)
    world.reset(int(seed))
    every = max(1, -(-len(actions) // _FRAMES))
    frames = [Image.fromarray(np.asarray(world.render()))]
    for i, action in enumerate(actions):
        world.step(action)
        if (i + 1) % every == 0 or i == len(actions) - 1:
            frames.append(Image.fromarray(np.asarray(world.render())))
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=80, loop=0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
