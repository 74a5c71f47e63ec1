"""Configs, data and states of the sizes that are measured. Data and initial numbers are made up."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np

from qgf_jax import config as configs
from qgf_jax.methods.builder import Builder
from qgf_jax.training.programs import Trainer
from qgf_jax.types import Spec
from stages.record import ROOT

PRECISIONS = ("float32", "tf32", "bfloat16")
"""Of matrix products: all of float32, its inputs rounded to TF32 where the device can, bfloat16."""
DRY_PRECISIONS = ("float32", "bfloat16")
"""A CPU has no TF32."""


class Size(NamedTuple):
    """Networks, batch and widths of the data."""

    hidden: tuple[int, ...]
    batch: int
    config: str = ""
    """Of which config file and variant; of `qgf` with its defaults if empty"""
    goal: int = 0
    """Width of a goal"""
    rows: int = 250_000


_PAPER, _GOALS = "paper.py:cube_triple", "goal_conditioned.py:cube_triple"
SIZES = {
    "4x512 batch 256": Size((512,) * 4, 256),
    "4x512 batch 1024": Size((512,) * 4, 1024),
    "4x1024 batch 1024": Size((1024,) * 4, 1024, _PAPER),
    "goals 4x1024 batch 4096": Size((1024,) * 4, 4096, _GOALS, goal=9),
}
"""The paper's update is the third, its goal-conditioned one the fourth; widths of cube-triple."""
DRY = {
    "4x512 batch 256": Size((16, 16), 8, rows=2000),
    "4x512 batch 1024": Size((16, 16), 16, rows=2000),
    "4x1024 batch 1024": Size((24, 24), 16, _PAPER, rows=2000),
    "goals 4x1024 batch 4096": Size((24, 24), 16, _GOALS, goal=3, rows=2000),
}
"""The same programs, tiny."""


class Made(NamedTuple):
    """What a size is made into."""

    config: dict[str, Any]
    spec: Spec
    data: Any
    """On the host."""


@functools.cache
def make(name: str, *, dry: bool = False, seeds: int = 1, steps: int = 10) -> Made:
    """Config, widths and data of a size."""
    size = (DRY if dry else SIZES)[name]
    if size.config:
        config = configs.load(str(ROOT / "experiments" / "configs" / size.config))
    else:
        config = configs.make("qgf")
    config.networks.update(policy_hidden=size.hidden, critic_hidden=size.hidden)
    config.train.batch_size, config.seeds, config.devices = size.batch, seeds, "1"
    if dry:
        config.sampler.num_steps = 3
    config.train.update(steps=steps, log_every=steps, save_every=steps)
    goal = (size.goal,) if size.goal else None
    spec = Spec((46,), 5, config.data.chunk, goal, config.data.n_step)
    data = common.made_up_data(spec, size.rows, config.data.discount)
    return Made(configs.plain(config), spec, data)


@functools.cache
def host_state(name: str, *, dry: bool = False) -> Any:
    """The initial state of one seed of a size, without its key, as NumPy arrays."""
    made = make(name, dry=dry)
    return initial(made.config, made.spec)


def initial(config: Mapping[str, Any], spec: Spec) -> Any:
    """As `host_state`, of any config. A CPU makes it, which compiles sooner."""
    trainer = Trainer.of(Builder(config, spec).learner(), config, spec)
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.device_get(trainer.init(np.arange(1)).replace(key=None))


def repeated(state: Any, seeds: int) -> Any:
    """That state for so many seeds, which differ in their keys alone, on the default device."""
    many = jax.tree.map(lambda x: jnp.asarray(np.repeat(x, seeds, axis=0)), state)
    return many.replace(key=jax.vmap(jax.random.key)(jnp.arange(seeds)))
