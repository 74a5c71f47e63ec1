"""Goal-conditioned OGBench: one checkpoint for all five tasks of an environment.

    CONFIG=experiments/configs/goal_conditioned.py
    qgf train --config=$CONFIG:pointmaze_medium_small --workdir=runs/goals
    qgf evaluate --workdir=runs/goals

The first five variants are the paper's (Zhou et al., 2026, Tables 2 and 4), over the critics of Li et
al., 2025, and were not run by us. What the paper does not say is taken from the latter: goals, the
form of the critic, and a policy that never sees the goal. Their data has 3M to 1B transitions.
The small ones are for two CPU cores: 40,000 steps of one seed took ten minutes on a maze.
"""

from typing import Any

from ml_collections import ConfigDict

from qgf_jax import config as configs
from qgf_jax.methods.table import Method

_PAPER: dict[str, Any] = {
    "data.chunk": 5,
    "data.n_step": 25,
    "data.discount": 0.999,
    "networks.policy_hidden": (1024,) * 4,
    "networks.critic_hidden": (1024,) * 4,
    "networks.policy_goal": False,
    "train.batch_size": 4096,
    "train.steps": 1_000_000,
    "eval.weights": (0.0, 1.0, 3.0, 10.0),
}
_SMALL: dict[str, Any] = {
    "data.chunk": 5,
    "data.n_step": 25,
    "data.discount": 0.99,
    "networks.policy_hidden": (256,) * 3,
    "networks.critic_hidden": (256,) * 3,
    "networks.policy_goal": False,
    "critics.dqc.kappa_d": 0.8,
    "train.steps": 20_000,
    "train.save_every": 5_000,
    "eval.weights": (0.0, 1.0, 3.0, 10.0),
}
_MAZE: dict[str, Any] = {
    **_SMALL,
    "data.standardize": True,
    "data.discount": 0.995,
    "optimizer.learning_rate": 1e-3,
    "train.steps": 40_000,
    "train.save_every": 10_000,
    "eval.weights": (0.0, 1.0, 3.0, 10.0, 30.0),
    "networks.policy_hidden": (128,) * 3,
    "networks.critic_hidden": (128,) * 3,
}
# As the benchmark's own methods act: one action at a time, and every policy sees the goal. Sizes and
# optimiser stay those of the variant.
_BENCHMARK = {"data.chunk": 1, "data.n_step": 0, "networks.policy_goal": True}


def _dqc(env: str, kappa_b: float, kappa_d: float, **more: Any) -> dict[str, Any]:
    """A row of Table 4: the critic's expectiles."""
    both = {"critics.dqc.kappa_b": kappa_b, "critics.dqc.kappa_d": kappa_d}
    return {**_PAPER, "env": env, **both, **more}


_PUZZLE = {"networks.aggregate": "mean"}

VARIANTS: dict[str, dict[str, Any]] = {
    "puzzle_4x5": _dqc("puzzle-4x5-play-oraclerep-v0", 0.9, 0.5, **_PUZZLE),
    "cube_triple": _dqc("cube-triple-play-oraclerep-v0", 0.93, 0.8),
    "cube_quadruple": _dqc("cube-quadruple-play-oraclerep-v0", 0.93, 0.8),
    "puzzle_4x6": _dqc("puzzle-4x6-play-oraclerep-v0", 0.7, 0.5, **_PUZZLE, **{"data.chunk": 1}),
    "cube_octuple": _dqc("cube-octuple-play-oraclerep-v0", 0.93, 0.5),
    # QGF with the linear form has 0.92 here, with the sigmoid 0.51; below it is the other way round.
    "pointmaze_medium_small": {
        **_MAZE,
        "env": "pointmaze-medium-navigate-v0",
        "networks.critic_output": "linear",
        "networks.ranking": "target",
    },
    "pointmaze_large_stitch_small": {**_MAZE, "env": "pointmaze-large-stitch-v0"},
    "cube_single_small": {**_SMALL, "env": "cube-single-play-oraclerep-v0"},
}


def get_config(variant: str = "pointmaze_medium_small", **choice: str) -> ConfigDict:
    known = Method.named(choice.get("algorithm", "qgf")).critics
    config = configs.make(**{**({"critic": "dqc"} if "dqc" in known else {}), **choice})
    configs.update(config, VARIANTS[variant])
    if Method.named(config.algorithm).goals:
        configs.update(config, _BENCHMARK)
    return config
