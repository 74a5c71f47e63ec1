"""The smallest config that does everything; a config file like any other."""

from ml_collections import ConfigDict

from qgf_jax import config as configs
from qgf_jax.methods.table import METHODS


def get_config(algorithm: str = "qgf", preset: str = "default", critic: str = "") -> ConfigDict:
    config = configs.make(algorithm, preset, critic)
    goals = METHODS[algorithm].goals or critic in ("dqc", "contrastive", "qrl")
    config.env = f"pointmaze-medium-stitch-{'' if goals else 'singletask-task1-'}v0"
    config.devices = "1"
    config.data.update(chunk=3, standardize=True)
    config.networks.update(policy_hidden=(8,), critic_hidden=(8,))
    config.sampler.num_steps = 3
    config.train.update(steps=4, batch_size=8, steps_per_dispatch=2, log_every=2, save_every=2)
    return config
