"""OGBench single-task, offline: one variant per environment and size.

    qgf train --config=experiments/configs/ogbench.py:cube_single_small --workdir=runs/cube
    qgf train --config=… --config.algorithm=fql --config.policy.alpha=300 --workdir=runs/fql

The small variants were run on two CPU cores: commands and scores in experiments/results/README.md.
"""

from typing import Any

from ml_collections import ConfigDict

from qgf_jax import config as configs

VARIANTS: dict[str, dict[str, Any]] = {
    "cube_single_small": {
        "env": "cube-single-play-singletask-task2-v0",
        "data.chunk": 5,
        # Trained at the integrator's own times: a few points above t uniform in each row of
        # experiments/results, by less than the intervals.
        "policy.time_grid": 10,
        "networks.policy_hidden": (256,) * 3,
        "networks.critic_hidden": (256,) * 3,
        "train.steps": 20_000,
        "train.save_every": 5_000,
        "eval.weights": (0.0, 0.03, 0.05, 0.1),
    },
    "pointmaze_medium_small": {
        "env": "pointmaze-medium-navigate-singletask-task1-v0",
        "data.chunk": 10,
        "data.standardize": True,
        "networks.policy_hidden": (128,) * 3,
        "networks.critic_hidden": (128,) * 3,
        "train.steps": 12_000,
        "train.save_every": 4_000,
        "eval.weights": (0.0, 1.0, 3.0, 10.0, 30.0),
    },
}

# What the authors of FQL took for a method on this environment, where its own default is another.
TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "cube_single_small": {"rebrac": {"policy.alpha": 1.0}},
}


def get_config(variant: str = "cube_single_small", **choice: str) -> ConfigDict:
    config = configs.make(**choice)
    configs.update(config, VARIANTS[variant])
    configs.update(config, TUNED.get(variant, {}).get(config.algorithm, {}))
    return config
