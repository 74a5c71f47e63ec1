"""Makes datasets with the scripted experts that a family of environments has.

No JAX but for the simulator on the device.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from qgf_guide.bounds import Bound, Count, Seed
from qgf_jax.envs.families import ON_DEVICE, EnvName, Family
from qgf_jax.envs.worker import leave_with
from qgf_jax.errors import UserError
from qgf_jax.runs import failpoints
from qgf_jax.runtime import children

_SPLITS = ("", "-val")


def collect(
    name: str,
    episodes: int,
    out: str | os.PathLike,
    *,
    seed: int = 0,
    workers: int | None = None,
    simulator: str = "mujoco",
) -> list[Path]:
    """Writes `dataset`.npz with `episodes` episodes and `dataset`-val.npz with a tenth as many.

    The dataset is that of the environment `name`. Every episode is a function of (seed, split, index),
    so the files do not depend on `workers`. Episodes that a stopped call has finished are kept and not
    made again; the files themselves appear whole or not at all. `simulator`: one of
    `SIMULATORS`; "jax" makes all episodes at once on the device, in an approximation that the
    files name in `simulator`. Raises `UserError` if a file is there already, or where there is no
    expert.
    """
    parsed, family = EnvName.parse(name), Family.of(name)
    dataset, collector = parsed.dataset, family.collector(parsed, simulator)
    Bound.of(Count).check("--episodes", episodes)
    Bound.of(Seed).check("--seed", seed)
    out = Path(out)
    files = [out / f"{dataset}{suffix}.npz" for suffix in _SPLITS]
    on_device = simulator == ON_DEVICE
    parts = out / f".{dataset}-seed{seed}{'-device' * on_device}.partial"
    _refuse(files, parts)
    parts.mkdir(parents=True, exist_ok=True)
    counts = (episodes, max(1, episodes // 10))
    if on_device:
        _make_on_device(files, parts, counts, collector, seed)
    else:
        _make_in_workers(files, parts, counts, name, seed, workers)
    failpoints.failpoint("assembled")
    for file in reversed(files):  # validation data first: the others say that both are there
        (parts / file.name).replace(file)
        failpoints.failpoint("named")
    shutil.rmtree(parts)
    return files


def _make_on_device(
    files: list[Path], parts: Path, counts: tuple[int, int], collector: Any, seed: int
) -> None:
    for split, (file, count) in enumerate(zip(files, counts, strict=True)):
        rows = collector.episodes(seed=seed, split=split, count=count)
        _save(parts / file.name, rows, compress=True)


def _make_in_workers(
    files: list[Path],
    parts: Path,
    counts: tuple[int, int],
    name: str,
    seed: int,
    workers: int | None,
) -> None:
    """One file for each episode, and then the files themselves of these."""
    wanted = [
        (split, index, parts / f"{split}-{index:06d}.npz")
        for split, count in enumerate(counts)
        for index in range(count)
    ]
    missing = [job for job in wanted if not job[2].exists()]
    _make(missing, len(wanted), name, seed, workers)
    for split, file in enumerate(files):
        _assemble([path for s, _, path in wanted if s == split], parts / file.name)


def _refuse(files: list[Path], parts: Path) -> None:
    """Raises `UserError` if a file is there, unless a killed call gave it its name.

    `files` are those of training and of validation, which gets its name first; the other waits in
    `parts`.
    """
    train, validation = (parts / file.name for file in files)
    if files[0].exists():
        shutil.rmtree(parts, ignore_errors=True)
    elif train.exists() and not validation.exists():
        return
    for file in files:
        if file.exists():
            raise UserError(f"{file} is there already: remove it or choose another --out")


def _make(
    jobs: list[tuple[int, int, Path]],
    total: int,
    name: str,
    seed: int,
    workers: int | None,
) -> None:
    """Makes the missing episodes, each into a file of its own."""
    if not jobs:
        return
    count = min(len(jobs), workers or os.cpu_count() or 1)
    # Fresh interpreters: an environment that another one was forked from shares its generators.
    fresh = multiprocessing.get_context("spawn")
    bar = tqdm(
        total=total, initial=total - len(jobs), unit="episode", disable=None, file=sys.stderr
    )
    with (
        bar,
        _safe_path(),
        concurrent.futures.ProcessPoolExecutor(count, fresh, _watch, (os.getpid(),)) as pool,
    ):
        futures = [
            pool.submit(_make_one, name, (seed, split, index), str(path))
            for split, index, path in jobs
        ]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _safe_path() -> contextlib.AbstractContextManager[None]:
    """Leaves the working folder out for processes that `multiprocessing` starts in the block."""
    return children.variable("PYTHONSAFEPATH", "1")


def _watch(parent: int) -> None:
    """Has this process end with the one that started it, which a kill gives no time to see to it."""
    threading.Thread(target=leave_with, args=(parent,), daemon=True).start()


@functools.cache
def _collector(name: str) -> Any:
    """The expert of a process that makes one episode after another."""
    return Family.of(name).collector(EnvName.parse(name))


def _make_one(name: str, identity: tuple[int, int, int], path: str) -> None:
    seed = int(np.random.SeedSequence(identity).generate_state(1)[0] >> 1)
    rows = _collector(name).episode(seed)
    _save(Path(path), rows, compress=False)


def _assemble(parts: list[Path], file: Path) -> None:
    episodes = []
    for part in parts:
        with np.load(part, allow_pickle=False) as loaded:
            episodes.append({key: loaded[key] for key in loaded.files})
    _save(file, {k: np.concatenate([e[k] for e in episodes]) for k in episodes[0]}, compress=True)


def _save(path: Path, arrays: dict[str, np.ndarray], *, compress: bool) -> None:
    """All of the file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        write = np.savez_compressed if compress else np.savez
        write(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
