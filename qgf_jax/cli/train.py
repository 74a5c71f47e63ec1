"""qgf train"""

import json
from collections.abc import Sequence
from pathlib import Path

from qgf_jax import config as configs
from qgf_jax import run
from qgf_jax.cli import Parser, add_cpu_threads, limit_cpu_threads
from qgf_jax.data.load import load


def main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `pretrain`."""
    parser = Parser(
        prog="qgf train",
        description="Pretrains a policy and a critic. The same command again goes on where it stopped.",
        epilog="Any value of the config can be set: --config.policy.time_grid=10; --show lists them.\n\n"
        "example: qgf train --config=experiments/configs/ogbench.py:cube_single_small "
        "--workdir=runs/cube",
    )
    parser.add_argument("--config", required=True, help="PATH.py[:variant]")
    parser.add_argument("--workdir", help="run folder")
    parser.add_argument("--show", action="store_true", help="print the resolved config and stop")
    add_cpu_threads(parser)
    flags, rest = parser.parse_known_args(arguments)
    config = configs.load(flags.config, configs.parse_overrides(rest))
    if flags.show:
        print("\n".join(f"--config.{k}={v}" for k, v in configs.flatten(config).items()))
        return
    if not flags.workdir:
        parser.error("--workdir is missing")
    resolved = configs.plain(config)
    # All that can be wrong with folder, config and data is found before JAX is imported.
    workdir = Path(flags.workdir)
    if (record := workdir / "config.json").exists():
        run.check_same(workdir, configs.read(record), resolved)
    run.check_free(workdir)
    limit_cpu_threads(flags.cpu_threads)
    loaded = load(resolved, _room)
    from qgf_jax.pretrain import pretrain

    print(json.dumps({"workdir": str(pretrain(resolved, workdir, loaded))}))


def _room() -> int:
    from qgf_jax.data import feeder

    return feeder.room()
