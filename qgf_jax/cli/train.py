"""qgf train"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from qgf_jax import config as configs
from qgf_jax.cli import RUNS, Parser, keys
from qgf_jax.data.load import Loaded
from qgf_jax.errors import UserError
from qgf_jax.runs.frozen import Frozen
from qgf_jax.runs.locks import TRAINING
from qgf_jax.runs.run import Run
from qgf_jax.runtime import backend, paths


@RUNS.declare
def _main(arguments: Sequence[str]) -> None:
    """Parses flags and calls `pretrain`."""
    flags, rest = _parser().parse_known_args(arguments)
    config = _config(flags, Parser.parse_overrides(rest))
    widths = (*config.networks.policy_hidden, *config.networks.critic_hidden)
    backend.tune(widest=max(widths, default=0))
    if flags.show:
        print("\n".join(f"--config.{k}={v}" for k, v in configs.flatten(config).items()))
        return
    resolved = configs.plain(config)
    if flags.dry_run:
        _describe(resolved, flags.hosts)
    elif not flags.workdir:
        raise UserError("--workdir is missing: see `qgf train --help`")
    elif flags.hosts:
        _train_together(flags.hosts, resolved, flags.workdir)
    else:
        _train(resolved, flags.workdir)


def _config(flags: argparse.Namespace, texts: Mapping[str, str]) -> ConfigDict:
    """That of the file, or, with --from, of the run that --add is added to."""
    if (flags.source is None) != (flags.add is None):
        raise UserError("--from and --add go together: --from=RUN --add=PART")
    if flags.source is None and flags.config is None:
        raise UserError("--config is missing: see `qgf train --help`")
    if flags.source is None:
        return configs.load(flags.config, texts)
    if flags.config is not None:
        raise UserError("--from has the config of its run: leave --config out")
    return Frozen.further(flags.source, flags.add, texts)


def _parser() -> Parser:
    parser = Parser(
        prog="qgf train",
        description="Pretrains a policy and a critic. The same command again resumes the run.",
        epilog="Any value of the config can be set: --config.policy.time_grid=10. --show lists them;\n"
        "--help=policy.time_grid or --help=policy says what they are.\n\n"
        "example: qgf train --config=experiments/configs/quickstart.py "
        "--workdir=runs/quickstart",
        help_on=keys.describe,
    )
    parser.add_argument("--config", help="PATH.py[:variant]")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="RUN",
        type=paths.expand,
        help="a trained run, in the place of --config: its parts are taken over and stand still",
    )
    parser.add_argument(
        "--add", metavar="PART", help="with --from: what is learned beside them, as distill"
    )
    parser.add_argument("--workdir", type=paths.expand, help="run folder")
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
    parser.add_cpu_threads()
    return parser


def _describe(config: Mapping[str, Any], hosts: str | None) -> None:
    from qgf_jax.training.dry_run import describe
    from qgf_jax.training.hosts import Hosts

    Hosts.parse(hosts or "auto")
    print(json.dumps(describe(config), indent=1))


def _train(config: Mapping[str, Any], workdir: Path) -> None:
    # All that can be wrong with folder, config and data is found before JAX is imported.
    config = Frozen(config).resolved(workdir)
    _check(config, workdir)
    loaded = Loaded.of(config, lambda: _free_bytes(config))
    from qgf_jax.training.loop import pretrain

    print(json.dumps({"workdir": str(pretrain(config, workdir, loaded))}))


def _check(config: Mapping[str, Any], workdir: Path) -> None:
    Run.check_same(workdir, config)
    TRAINING.check_free(workdir)


def _train_together(hosts: str, config: Mapping[str, Any], workdir: Path) -> None:
    """Trains as one of several processes, of which only the first writes and prints."""
    from qgf_jax.training.hosts import Hosts
    from qgf_jax.training.loop import pretrain

    first = Hosts.initialize(hosts)
    done = pretrain(config, workdir)
    if first:
        print(json.dumps({"workdir": str(done)}))
    Hosts.shutdown()


def _free_bytes(config: Mapping[str, Any]) -> int:
    from qgf_jax.training.parallel import DeviceLayout

    return DeviceLayout.of(config).free_bytes()
