"""Memory of `qgf train` on a made-up dataset of cube-double's shapes, and what a transition takes.

    python benchmarks/memory.py --rows 1001000

The peak is the largest resident set of the process, beyond what it is when all is imported.
"""

import argparse
import resource
import shutil
import tempfile
import warnings
from pathlib import Path

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rows", type=int, default=1_001_000, help="of the dataset, 1001 a trajectory")
parser.add_argument("--width", type=int, default=8, help="of every hidden layer")
parser.add_argument("--batch", type=int, default=256)
parser.add_argument("--chunk", type=int, default=5)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--standardize", action="store_true")
parser.add_argument("--converted", action="store_true", help="train from the converted layout")
parser.add_argument("--threads", type=int, default=1, help="of XLA on a CPU")
flags = parser.parse_args()
NAME, OBS, QPOS, QVEL = "cube-double-play-v0", 37, 28, 26


def make(folder: Path) -> None:
    """In a process that is not measured."""
    import numpy as np

    from qgf_jax.data.convert import convert

    rng, n = np.random.default_rng(0), flags.rows
    ends = np.arange(n) % 1001 == 1000
    ends[-1] = True
    wide = {"observations": OBS, "qpos": QPOS, "qvel": QVEL}
    np.savez(
        folder / f"{NAME}.npz",
        actions=rng.random((n, 5), np.float32) * 2 - 1,
        terminals=ends,
        **{key: rng.standard_normal((n, width), np.float32) for key, width in wide.items()},
    )
    if flags.converted:
        convert(folder / f"{NAME}.npz", folder)


def measure(folder: Path) -> dict[str, float]:
    """Trains as the command does."""
    common.limit_threads(flags.threads, flags.width)
    warnings.filterwarnings("ignore", module="gymnasium")
    import jax

    from qgf_jax import config as configs
    from qgf_jax.data.load import Loaded
    from qgf_jax.envs import ogbench
    from qgf_jax.training import loop as pretrain
    from qgf_jax.training.parallel import DeviceLayout

    config = configs.make("qgf")
    config.env = "cube-double-play-singletask-task1-v0"
    config.data.update(dir=str(folder), chunk=flags.chunk, standardize=flags.standardize)
    config.networks.update(policy_hidden=(flags.width,) * 3, critic_hidden=(flags.width,) * 3)
    config.train.update(
        batch_size=flags.batch, steps=flags.steps, log_every=100, save_every=flags.steps
    )
    config = configs.plain(config)
    ogbench.FAMILY.make(config["env"]).reset(0)
    jax.block_until_ready(jax.numpy.zeros(1) + 1)
    imported = peak()
    loaded = Loaded.of(config, DeviceLayout.of(config).free_bytes)
    dataset = loaded.dataset
    arrays = [array for array in dataset if array is not None]
    held = sum(array.nbytes for array in arrays)
    result = {
        "bytes_a_transition": held / len(dataset.action),
        "of_which_observations_and_actions": (dataset.obs.nbytes + dataset.action.nbytes)
        / len(dataset.action),
        "raw_observations_and_actions": 4 * flags.rows * (OBS + 5) / len(dataset.action),
        "float64_arrays": sum(array.dtype.itemsize == 8 for array in arrays),
        "peak_gb_beyond_imports_loading": (peak() - imported) / 2**30,
    }
    del dataset, arrays
    pretrain.pretrain(config, folder / "run", loaded)
    return result | {
        "peak_gb_beyond_imports": (peak() - imported) / 2**30,
        "after_gb_beyond_imports": (now() - imported) / 2**30,
        "imports_gb": imported / 2**30,
    }


def peak() -> int:
    """Bytes of the largest resident set so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def now() -> int:
    """Bytes of the resident set."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    import concurrent.futures
    import multiprocessing

    folder = Path(tempfile.mkdtemp())
    spawn = multiprocessing.get_context("spawn")
    try:
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            pool.submit(make, folder).result()
        found = measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    common.show({**found, **vars(flags), **common.machine()})


if __name__ == "__main__":
    main()
