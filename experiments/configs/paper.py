"""The paper's single-task setting (Zhou et al., 2026, Table 1), under the `paper` preset.

    qgf train --config=experiments/configs/paper.py:cube_triple --workdir=runs/c3 --config.seed=1

Not run by us: it wants the 100M-row data and an accelerator (98 GFLOP a step, 500,000 steps).
"""

from typing import Any

from ml_collections import ConfigDict

from qgf_jax import config as configs

# What the paper's scripts set by domain, for the methods that have it.
TUNED: dict[str, dict[str, dict[str, Any]]] = {
    "cube_triple": {"fql": {"policy.alpha": 1000.0}},
    "cube_quadruple": {"fql": {"policy.alpha": 1000.0}, "edp": {"policy.bc_weight": 300.0}},
    "puzzle_4x4": {
        "fql": {"policy.alpha": 1000.0},
        "edp": {"policy.bc_weight": 300.0},
        "dac": {"policy.bc_weight": 300.0},
    },
    "scene": {"edp": {"policy.bc_weight": 30.0}, "grad_step": {"sampler.steps": 5}},
}
VARIANTS = {
    "cube_triple": "cube-triple-play-singletask-task1-v0",
    "cube_quadruple": "cube-quadruple-play-singletask-task1-v0",
    "puzzle_4x4": "puzzle-4x4-play-singletask-task1-v0",
    "scene": "scene-play-singletask-task1-v0",
}


def get_config(variant: str = "cube_triple", **choice: str) -> ConfigDict:
    config = configs.make(**({"preset": "paper"} | choice))
    config.env = VARIANTS[variant]
    config.data.update(chunk=5, discount=0.999)
    config.networks.update(policy_hidden=(1024,) * 4, critic_hidden=(1024,) * 4)
    config.train.update(steps=500_000, batch_size=1024, log_every=5_000, save_every=100_000)
    config.eval.update(
        weights=(0.004, 0.008, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12), episodes=30, envs=30
    )
    configs.update(config, TUNED[variant].get(config.algorithm, {}))
    return config
