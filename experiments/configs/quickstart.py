"""The first run: a point mass in a maze, OGBench pointmaze-medium-navigate, task 1.

    make quickstart

collects 300 episodes, trains for 12,000 steps and evaluates reference, best-of-4 and QGF. Cost and
score: experiments/results/README.md.
"""

from ml_collections import ConfigDict

from qgf_jax import config as configs


def get_config(**choice: str) -> ConfigDict:
    config = configs.make(**choice)
    config.env = "pointmaze-medium-navigate-singletask-task1-v0"
    config.data.update(chunk=10, discount=0.99, standardize=True)
    config.networks.update(policy_hidden=(128,) * 3, critic_hidden=(128,) * 3)
    config.train.update(steps=12_000, batch_size=256, save_every=4_000)
    config.eval.update(weights=(0.0, 1.0, 3.0, 10.0, 30.0), episodes=50, envs=40)
    return config
