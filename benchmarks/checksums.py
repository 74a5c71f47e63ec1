"""What checksums cost when converted data are read, on a made-up dataset of cube-triple's shapes.

    python benchmarks/checksums.py --rows 2002000

Blocks are read in turn with checksums and, by way of a manifest from before there were any, without:
once as bytes alone, all of them in the page cache, and once as training reads a block, with rewards
and chunks; and with the page cache emptied of them before each block, in wall time, which is what
reading a dataset takes. Of each block and way the least time of --rounds counts. `hashing_share_…` is
what the sums take in a loop by themselves, over a piece in the cache, of the time without: it has less
noise.
"""

import argparse
import json
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import common

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--rows", type=int, default=2_002_000, help="of the dataset, 1001 a trajectory")
parser.add_argument("--block", type=int, default=250_000, help="starts of a block")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--folder", default="runs", help="where the dataset is made, and removed")
flags = parser.parse_args()
NAME, WIDTHS = "cube-triple-play-v0", {"observations": 46, "qpos": 35}


def make(folder: Path) -> None:
    """One with checksums and one without, of the same files."""
    import numpy as np

    from qgf_jax.data.converted import MANIFEST, Manifest
    from qgf_jax.data.formats import Rows
    from qgf_jax.runs.files import fingerprint

    rng, n = np.random.default_rng(0), flags.rows
    ends = np.arange(n) % 1001 == 1000
    ends[-1] = True
    obs, qpos = (rng.standard_normal((n, width), np.float32) for width in WIDTHS.values())
    rows = Rows(obs, rng.random((n, 5), np.float32) * 2 - 1, ends, {"qpos": qpos})
    Manifest.write(folder / "with" / NAME, [("0", rows)])
    old = folder / "without" / NAME
    old.mkdir(parents=True)
    for path in (folder / "with" / NAME).glob("*.npy"):
        (old / path.name).hardlink_to(path)
    record = json.loads((folder / "with" / NAME / MANIFEST).read_text())
    for key in ("checksums", "sha256"):
        del record[key]
    (old / MANIFEST).write_text(json.dumps(record | {"sha256": fingerprint(record)}))


def open_stream(folder: Path) -> Any:
    from qgf_jax import config as configs
    from qgf_jax.data.load import Loaded

    config = configs.make("qgf")
    config.env = "cube-triple-play-singletask-task1-v0"
    config.data.update(dir=str(folder), mode="streamed", block=flags.block)
    return Loaded.of(configs.plain(config)).take()


def measure(
    calls: dict[str, Any], blocks: int, clock: Any = time.process_time, before: Any = lambda: None
) -> dict[str, float]:
    """Seconds of all blocks by the way they are read; `before` each is not counted."""
    best = {name: [float("inf")] * blocks for name in calls}
    for _ in range(flags.rounds):
        for i in range(blocks):
            for name, call in calls.items():
                before()
                begun = clock()
                call(i)
                best[name][i] = min(best[name][i], clock() - begun)
    return {name: sum(seconds) for name, seconds in best.items()}


def forget(folder: Path) -> None:
    """Takes the files out of the page cache."""
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def hash_seconds(size: int) -> float:
    """CPU seconds for the checksums of so many bytes, by pieces that stay in the cache."""
    import xxhash

    from qgf_jax.data.converted import PIECE

    piece, count = memoryview(bytearray(PIECE)), size // PIECE
    return common.least_cpu_seconds(
        lambda: [xxhash.xxh3_64_intdigest(piece) for _ in range(count)], flags.rounds
    )


def main() -> None:
    warnings.filterwarnings("ignore", module="gymnasium")
    folder = Path(flags.folder, "checksums")
    try:
        make(folder)
        streams = {name: open_stream(folder / name) for name in ("with", "without")}
        spans = [streams["with"]._span(i) for i in range(len(streams["with"]))]
        raw = {n: lambda i, s=s: s._source.read(*spans[i]) for n, s in streams.items()}
        bytes_alone = measure(raw, len(spans))
        reads = {n: s.read for n, s in streams.items()}
        prepared = measure(reads, len(spans))
        cold = measure(reads, len(spans), time.perf_counter, lambda: forget(folder))
        size = sum(
            sum(array.nbytes for array in (*rows[:3], *rows.info.values()))
            for rows in map(raw["with"], range(len(spans)))
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    hashing = hash_seconds(size)
    common.show(
        {
            "share_of_training_s_reading_from_disk": cold["with"] / cold["without"] - 1,
            "disk_gb_a_second": size / cold["without"] / 1e9,
            "share_of_training_s_reading": prepared["with"] / prepared["without"] - 1,
            "share_of_bytes_alone": bytes_alone["with"] / bytes_alone["without"] - 1,
            "hashing_share_of_training_s_reading": hashing / prepared["without"],
            "hashing_share_of_bytes_alone": hashing / bytes_alone["without"],
            "bytes_alone_gb_a_cpu_second": size / bytes_alone["without"] / 1e9,
            "training_s_reading_gb_a_cpu_second": size / prepared["without"] / 1e9,
            "hashing_gb_a_cpu_second": size / hashing / 1e9,
            "read_gb": size / 1e9,
            **{k: v for k, v in vars(flags).items() if k != "folder"},
            **common.machine(),
        }
    )


if __name__ == "__main__":
    main()
