"""Twelve tasks of OGBench at a size that two CPU cores can train; the number after a name is the task.

    qgf train --config=experiments/configs/study.py:cube_single_2 --config.seeds=5 --workdir=runs/cube

One policy and one critic serve all test-time arms. Networks and data are a quarter of the benchmark's or
less, so numbers compare arms with each other and not with published scores.
"""

from typing import Any

from ml_collections import ConfigDict

from qgf_jax import config as configs

_WIDTHS = {f"networks.{name}_hidden": (128,) * 3 for name in ("policy", "critic")}
_MAZE = _WIDTHS | {
    "data.chunk": 10,
    "data.standardize": True,
    "train.steps": 12_000,
    "train.save_every": 4_000,
    "eval.weights": (0.0, 1.0, 3.0, 10.0, 30.0),
}
_ARM = _WIDTHS | {
    "data.chunk": 5,
    "policy.time_grid": 10,
    "train.steps": 20_000,
    "train.save_every": 5_000,
    "eval.weights": (0.0, 0.01, 0.03, 0.1, 0.3),
}
_TASKS = {
    "pointmaze_medium": ("pointmaze-medium-navigate", _MAZE, (1, 2, 3)),
    "pointmaze_large": ("pointmaze-large-navigate", _MAZE, (1,)),
    "cube_single": ("cube-single-play", _ARM, (1, 2, 3, 4, 5)),
    "puzzle_3x3": ("puzzle-3x3-play", _ARM, (2, 4)),
    "scene": ("scene-play", _ARM, (2,)),
}
VARIANTS: dict[str, dict[str, Any]] = {
    f"{name}_{task}": {"env": f"{env}-singletask-task{task}-v0"} | size
    for name, (env, size, tasks) in _TASKS.items()
    for task in tasks
}


def get_config(variant: str = "cube_single_2", **choice: str) -> ConfigDict:
    config = configs.make(**choice)
    configs.update(config, VARIANTS[variant])
    return config
