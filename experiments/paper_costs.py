"""GPU-hours that the paper's tables and figures would take, for experiments/README.md.

    python experiments/paper_costs.py            # writes the page's figures from the counts
    python experiments/paper_costs.py --count    # counts first what is missing, 10 CPU-seconds each

A count is `flops_per_update` of `qgf train --dry_run`, kept in `paper_flops.json` under a digest of the
config. An hour is one of a GPU with 100 TFLOP/s effective: an assumption, no measurement. Episodes are
simulated on CPUs and are not in it. cube_triple stands for all four single-task domains, whose updates
differ by 1 % at most.
"""

import argparse
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from qgf_jax import config as configs

HERE = Path(__file__).parent
COUNTS, PAGE = HERE / "paper_flops.json", HERE / "README.md"
FLOP_PER_SECOND = 100e12
_IDLE = ("eval.", "train.steps", "train.log_every", "train.save_every", "preset", "frozen.run")
"""Beginnings of keys that change no count."""


class Training(NamedTuple):
    """A config of one training: FILE:VARIANT, and what is set besides, as KEY=VALUE."""

    reference: str
    settings: tuple[str, ...] = ()

    @property
    def flags(self) -> str:
        """What `qgf train` is called with."""
        return " ".join([f"--config=experiments/configs/{self.reference}", *self._words()])

    def _words(self) -> list[str]:
        return [f"--config.{setting}" for setting in self.settings]

    def config(self) -> ConfigDict:
        """The resolved config."""
        texts = configs.parse_overrides(self._words())
        return configs.load(f"{HERE}/configs/{self.reference}", texts)

    @functools.cache  # noqa: B019 - a tuple of a few texts
    def digest(self) -> str:
        """Of what the count depends on: the values that are not the method's defaults."""
        config = self.config()
        default = configs.flatten(configs.make(config.algorithm, critic=config.critic))
        own = {k: v for k, v in configs.flatten(config).items() if v != default[k]}
        own |= {"algorithm": config.algorithm, "critic": config.critic}
        told = {k: v for k, v in own.items() if not k.startswith(_IDLE)}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _single(algorithm: str, *settings: str, kind: str = "") -> Training:
    return Training(f"paper.py:cube_triple{kind}", (f"algorithm={algorithm}", *settings))


def _added(algorithm: str, part: str) -> Training:
    """`qgf train --from=RUN --add=PART`: the part alone is trained."""
    return _single(algorithm, "frozen.run=RUN", f"frozen.add={part}")


_GOALS = ("puzzle_4x5", "cube_triple", "cube_quadruple", "puzzle_4x6", "cube_octuple")
# Candidates of Table 5, for the methods that are trained anew for each.
_RANGES = {"dac": 3, "qsm_bc": 4, "fql": 4, "qam": 3, "edp": 5}
_FIGURE_5 = {
    "qgf": _single("qgf"),
    **{name: _single(name) for name in ("edp", "fql", "qam", "dac", "qsm_bc", "cfgrl")},
    "robust_q": _added("robust_q", "robust_q"),
}
# By mark on the page: trainings, and how many of each. Twenty tasks and ten seeds unless a row says
# otherwise; tuning is on two tasks of four domains.
ROWS: dict[str, list[tuple[Training, int]]] = {
    "table_5": [(_FIGURE_5[name], values * 8) for name, values in _RANGES.items()],
    **{f"figure_5_{name}": [(training, 200)] for name, training in _FIGURE_5.items()},
    "figure_5": [(training, 200) for training in _FIGURE_5.values()],
    "figure_5_three_seeds": [(training, 60) for training in _FIGURE_5.values()],
    "figure_8": [(Training(f"goal_conditioned.py:{variant}"), 10) for variant in _GOALS],
    "figure_9_qgf": [(_single("qgf", kind=kind), 20) for kind in ("_512", "_2048")],
    "figure_9_qam": [(_single("qam", kind=kind), 20) for kind in ("_512", "_2048")],
    "figure_10": [(Training("paper.py:cube_triple_td_qam_10"), 80)],
    "figure_15": [(_added("qgf_distill", "distill"), 200)],
    "figure_18": [(Training("paper.py:cube_triple"), 40)],
}


def trainings() -> dict[str, Training]:
    """All of them by digest."""
    return {one.digest(): one for row in ROWS.values() for one, _ in row}


def hours(counts: Mapping[str, Any], mark: str) -> float:
    """GPU-hours of a row; `KeyError` for a config that has not been counted."""
    total = sum(
        counts[one.digest()]["flops_per_update"] * one.config().train.steps * n
        for one, n in ROWS[mark]
    )
    return total / FLOP_PER_SECOND / 3600


def page(text: str, counts: Mapping[str, Any]) -> str:
    """The page with the hours of today: whole ones, after each `<!-- gpu MARK -->`."""

    def written(mark: re.Match[str]) -> str:
        return f"{mark[1]}{hours(counts, mark[2]):.0f}"

    return re.sub(r"(<!-- gpu (\w+) -->)[\d.]*", written, text)


def count(training: Training) -> dict[str, Any]:
    """The command, and its floating-point operations an update."""
    from qgf_jax.training.dry_run import describe

    described = describe(configs.plain(training.config()))
    return {"train": training.flags, "flops_per_update": described["flops_per_update"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--count", action="store_true", help="count what is missing")
    flags = parser.parse_args()
    counts = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    if flags.count:
        from qgf_jax.runtime import backend

        backend.tune(widest=1024)
        wanted = trainings()
        for digest, training in wanted.items():
            if digest not in counts:
                counts[digest] = count(training)
            known = {key: counts[key] for key in wanted if key in counts}
            COUNTS.write_text(json.dumps(known, indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), counts))


if __name__ == "__main__":
    main()
