"""CPU with eight simulated devices, no broadcasting by accident, and compilation kept cheap."""

import collections
import gc
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONG = os.environ.get("QGF_RELIABILITY") == "long"  # `make reliability`
WHOLE = LONG or os.environ.get("QGF_TESTS") == "whole"  # `make whole`, which CI runs on one Python
# Pythons share what JAX has compiled until 3.14, where it compresses in another way.
_KEPT = ROOT / ".cache" / ("jax" if sys.version_info < (3, 14) else "jax-zstd")
CACHE = Path(os.environ.get("QGF_TEST_CACHE", _KEPT))

# All before JAX is imported. NPROC: with fewer threads than simulated devices JAX 0.10 dead-locks.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["NPROC"] = "16"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true"
)
AS_USERS: dict = {}
"""Options of a compilation that give a program the kernels which it has outside the tests."""
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones have no choice
    # The newer kernels run quicker and take three times as long to compile.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    # One thread compiles a program that is small already: to divide it is a fifth of the work.
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
    AS_USERS = {"xla_cpu_use_fusion_emitters": True}
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

# Tracing makes many objects, and the modules are a heap that each full collection walks through.
gc.set_threshold(100_000, 50, 50)

import numpy as np
import pytest
import tiny_config

from qgf_jax import config as configs
from qgf_jax.data.collect import collect

MAZE = "pointmaze-medium-stitch-v0"


def pytest_collection_modifyitems(config, items):
    """Leaves what is marked `whole` to `make whole`; tests that are asked for by their names stay.

    `whole(but_every=4)` leaves out all cases of a test but the first and each fourth after it.
    """
    if WHOLE or any("::" in word for word in config.args):
        return
    kept, seen = [], collections.Counter()
    for item in items:
        mark, name = item.get_closest_marker("whole"), item.nodeid.partition("[")[0]
        every = mark.kwargs.get("but_every") if mark else 1
        if every and seen[name] % every == 0:
            kept.append(item)
        seen[name] += 1
    stay = {*kept}
    config.hook.pytest_deselected(items=[item for item in items if item not in stay])
    items[:] = kept


@pytest.fixture(scope="session")
def maze_data(tmp_path_factory) -> Path:
    """A folder with six short episodes of a point maze, made by the real experts."""
    folder = tmp_path_factory.mktemp("data")
    collect(MAZE, 6, folder, workers=2)
    return folder


def tiny(algorithm: str = "qgf", preset: str = "default", critic: str = "", **changes):
    """The smallest config that does everything."""
    config = tiny_config.get_config(algorithm=algorithm, preset=preset, critic=critic)
    config.update_from_flattened_dict(changes)
    return configs.plain(config)


def recorded(folder, name, **changes):
    """A tiny config for data without an environment."""
    return tiny(
        **{
            "env": f"data:{name}",
            "data.dir": str(folder),
            "data.chunk": 1,
            "data.discount": 0.9,
            **changes,
        }
    )


def command(*words):
    """The exit code of a `qgf` command."""
    from qgf_jax import cli

    try:
        cli.main([*words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="session")
def run_folder(maze_data, tmp_path_factory) -> Path:
    """A trained run with two seeds."""
    from qgf_jax.training.loop import pretrain

    config = tiny(**{"data.dir": str(maze_data), "seeds": 2})
    return pretrain(config, tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def parity():
    """The script that compares with the public code, as a module."""
    spec = importlib.util.spec_from_file_location("parity", ROOT / "benchmarks" / "parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def at(batch, i):
    """Example `i` of a tree whose leaves have one in each row."""
    import jax

    return jax.tree.map(lambda x: x[i], batch)


def rows_of(lengths, obs_dim=2, action_dim=2, seed=0):
    """Made-up rows: trajectories of `lengths` transitions; the observation tells the row."""
    from qgf_jax.data.formats import Rows

    total = sum(lengths) + len(lengths)
    rng = np.random.default_rng(seed)
    ends = np.zeros(total, bool)
    ends[np.cumsum(np.array(lengths) + 1) - 1] = True
    obs = np.repeat(np.arange(total, dtype=np.float32)[:, None], obs_dim, axis=1)
    actions = rng.uniform(-0.9, 0.9, (total, action_dim)).astype(np.float32)
    return Rows(obs, actions, ends, {})


@pytest.fixture(scope="session")
def slices_data(maze_data, tmp_path_factory) -> Path:
    """The same episodes as a folder of three npz slices, the first with a twin."""
    folder = tmp_path_factory.mktemp("slices")
    (folder / MAZE).mkdir()
    with np.load(maze_data / f"{MAZE}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    bounds = [0, *(np.flatnonzero(arrays["terminals"])[[0, 3, 5]] + 1)]
    for i in range(3):
        part = slice(bounds[i], bounds[i + 1])
        np.savez(folder / MAZE / f"{MAZE}-{i}.npz", **{k: v[part] for k, v in arrays.items()})
    twin = (maze_data / f"{MAZE}-val.npz").read_bytes()
    (folder / MAZE / f"{MAZE}-0-val.npz").write_bytes(twin)
    return folder
