"""From nothing to a trained and sealed run in under a minute on a CPU.

    qgf train --config=experiments/configs/smoke.py --workdir=runs/smoke

The data, twenty short episodes, are collected first if they are not there; where OGBench is not
installed, in the simulator on the device. It learns nothing to speak of; it shows that everything is
wired.
"""

from pathlib import Path

from ml_collections import ConfigDict

from qgf_jax import config as configs
from qgf_jax.data.collect import collect
from qgf_jax.envs import ogbench

DATA = "data/smoke"
NAME = "pointmaze-medium-stitch-v0"


def get_config(**choice: str) -> ConfigDict:
    if not Path(DATA, f"{NAME}-val.npz").exists():
        collect(NAME, 20, DATA, simulator="jax" if ogbench.FAMILY.missing() else "mujoco")
    config = configs.make(**choice)
    config.env = "pointmaze-medium-stitch-singletask-task1-v0"
    config.data.update(dir=DATA, chunk=5, standardize=True)
    config.networks.update(policy_hidden=(32, 32), critic_hidden=(32, 32))
    config.train.update(steps=300, batch_size=64, log_every=100, save_every=100)
    config.eval.update(weights=(0.0, 1.0), episodes=2, envs=4)
    return config
