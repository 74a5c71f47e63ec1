"""Encoders: what a network makes of an observation before its own layers.

The shape of a part of an observation picks its encoder by its rank. Rows of numbers are used as they
are. An encoder of images is one file, in this folder or in another package:

    class Convolutions(nn.Module):              # (image [H, W, C]) -> features [F]
        @nn.compact
        def __call__(self, image): ...

    ENCODERS[3] = Convolutions

Each network has an encoder with parameters of its own. Files of other packages are found by the
entry-point group `qgf_jax.encoders`, whose entries name modules.
"""

import functools
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable

import jax.numpy as jnp

from qgf_jax.errors import UserError
from qgf_jax.runtime.plugins import load_entry
from qgf_jax.types import Array, Obs, Spec

ENCODERS: dict[int, Callable[..., Callable[[Array], Array]]] = {
    1: lambda name: lambda numbers: numbers
}
"""By the rank of a part's shape: (name) -> a module that takes the standardised part to features [F]."""


def network_input(spec: Spec, obs: Obs, *, goal: bool = True) -> Obs:
    """What a network is fed of `obs`: each part standardised and encoded, features [F].

    `goal`: with its goal, if it has one, or without. Call it in a module's `__call__`, and once: each
    call there makes encoders of their own. Raises `UserError` for a shape that has no encoder.
    """
    if obs.state is None:  # of a network that is prepared, whose first layer has it already
        return Obs(None)
    state = _encode("state", obs.state, spec.state_mean, spec.state_std)
    if not goal or obs.goal is None:
        return Obs(state)
    return Obs(state, _encode("goal", obs.goal, spec.goal_mean, spec.goal_std))


def _encode(part: str, x: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    if x.ndim not in ENCODERS:
        _load()
    if x.ndim not in ENCODERS:
        raise UserError(f"no encoder for a {part} of shape {list(x.shape)}: see {__name__}")
    if mean:
        centred = x - jnp.asarray(mean, x.dtype).reshape(x.shape)
        x = centred / jnp.asarray(std, x.dtype).reshape(x.shape)
    return ENCODERS[x.ndim](name=f"{part}_encoder")(x)


@functools.cache
def _load() -> None:
    """Imports the files beside this one, then those that other packages name."""
    for found in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{found.name}")
    for entry in importlib.metadata.entry_points(group="qgf_jax.encoders"):
        load_entry(entry, "encoders")
