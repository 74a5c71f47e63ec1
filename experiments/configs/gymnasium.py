"""Gymnasium's environments, on data of your own: one variant per size.

    qgf train --config=experiments/configs/gymnasium.py --config.env=Hopper-v5 \\
        --config.data.name=hopper-medium --workdir=runs/hopper

Rows carry their rewards and masks (docs/data.md).
"""

from typing import Any

from ml_collections import ConfigDict

from qgf_jax import config as configs

VARIANTS: dict[str, dict[str, Any]] = {
    "small": {
        "networks.policy_hidden": (256,) * 3,
        "networks.critic_hidden": (256,) * 3,
        "train.steps": 50_000,
        "train.save_every": 10_000,
    },
    # Minutes on two cores: the published tables of Hopper and HalfCheetah (experiments/results).
    "laptop": {
        "networks.policy_hidden": (128,) * 3,
        "networks.critic_hidden": (128,) * 3,
        "data.n_step": 10,
        "data.reward_scale": 0.1,
        "train.steps": 20_000,
        "train.save_every": 5_000,
        "eval.weights": (0.0, 0.1, 0.3, 1.0, 3.0),
        "eval.episodes": 20,
    },
    # From nothing to a report in seconds, to see that data and environment fit together.
    "tiny": {
        "networks.policy_hidden": (16, 16),
        "networks.critic_hidden": (16, 16),
        "sampler.num_steps": 3,
        "train.steps": 20,
        "train.batch_size": 16,
        "train.log_every": 10,
        "train.save_every": 10,
        "eval.episodes": 2,
        "eval.envs": 4,
    },
}


def get_config(variant: str = "small", **choice: str) -> ConfigDict:
    config = configs.make(**choice)
    config.env = "Hopper-v5"
    # A single action at a time: simulated joints answer within one step.
    configs.update(config, {"data.chunk": 1, "data.standardize": True, "data.discount": 0.99})
    configs.update(config, VARIANTS[variant])
    return config
