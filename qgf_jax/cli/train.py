"""qgf train"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qgf_jax import config as configs
from qgf_jax.cli import Parser, add_cpu_threads, limit_cpu_threads, path
from qgf_jax.data.load import load
from qgf_jax.runs import run
from qgf_jax.runtime import backend


def main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `pretrain`."""
    parser = Parser(
        prog="qgf train",
        description="Pretrains a policy and a critic. The same command again goes on where it stopped.",
        epilog="Any value of the config can be set: --config.policy.time_grid=10; --show lists them.\n\n"
        "example: qgf train --config=experiments/configs/quickstart.py "
        "--workdir=runs/quickstart",
    )
    parser.add_argument("--config", required=True, help="PATH.py[:variant]")
    parser.add_argument("--workdir", type=path, help="run folder")
    parser.add_argument("--show", action="store_true", help="print the resolved config and stop")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print config, devices, parameters, bytes and FLOPs, and stop; no data are read",
    )
    parser.add_argument(
        "--hosts",
        help="train together with others: auto (Slurm, TPU pods …) or ADDRESS:PORT,COUNT,INDEX",
    )
    add_cpu_threads(parser)
    flags, rest = parser.parse_known_args(arguments)
    config = configs.load(flags.config, configs.parse_overrides(rest))
    widths = (*config.networks.policy_hidden, *config.networks.critic_hidden)
    backend.tune(widest=max(widths, default=0))
    if flags.show:
        print("\n".join(f"--config.{k}={v}" for k, v in configs.flatten(config).items()))
        return
    if flags.dry_run:
        limit_cpu_threads(flags.cpu_threads)
        from qgf_jax.training import parallel
        from qgf_jax.training.dry_run import describe

        parallel.parse_hosts(flags.hosts or "auto")
        print(json.dumps(describe(configs.plain(config)), indent=1))
        return
    if not flags.workdir:
        parser.error("--workdir is missing")
    resolved, workdir = configs.plain(config), flags.workdir
    limit_cpu_threads(flags.cpu_threads)
    if flags.hosts:
        _train_together(flags.hosts, resolved, workdir)
        return
    # All that can be wrong with folder, config and data is found before JAX is imported.
    _check(resolved, workdir)
    loaded = load(resolved, lambda: _room(resolved))
    from qgf_jax.training.loop import pretrain

    print(json.dumps({"workdir": str(pretrain(resolved, workdir, loaded))}))


def _check(config: Mapping[str, Any], workdir: Path) -> None:
    if (record := workdir / "config.json").exists():
        run.check_same(workdir, configs.read(record), config)
    run.check_free(workdir)


def _train_together(hosts: str, config: Mapping[str, Any], workdir: Path) -> None:
    """As one of several processes, of which the first alone writes and speaks."""
    from qgf_jax.training import parallel
    from qgf_jax.training.loop import pretrain

    first = parallel.initialize(hosts)
    done = pretrain(config, workdir)
    if first:
        print(json.dumps({"workdir": str(done)}))
    parallel.shutdown()


def _room(config: Mapping[str, Any]) -> int:
    from qgf_jax.training import parallel

    return parallel.make(config).room()
