"""Gymnasium's spaces as rows of numbers: the same order for an environment and for its data. No JAX.

A dictionary is flattened in the order of its sorted keys, one within another as `outer/inner`. Only
boxes of numbers are observations or actions here.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qgf_jax.errors import UserError

Parts = tuple[tuple[str, int], ...]
"""(key, numbers) of each part of an observation, in order; the key is "" where there is one box."""


def parts(where: str, space: Any, chosen: Sequence[str] = ()) -> Parts:
    """The parts of an observation space, all or the `chosen` ones in that order.

    Raises `UserError` for anything that is not made of boxes, and for a key that there is not.
    """
    found = dict(_boxes(where, space, ""))
    if not chosen:
        return tuple(found.items())
    for key in chosen:
        if key not in found:
            raise UserError.unknown(f"part of {where}'s observations", key, found)
    return tuple((key, found[key]) for key in chosen)


def _boxes(where: str, space: Any, key: str) -> Sequence[tuple[str, int]]:
    kind = type(space).__name__
    if kind == "Dict":
        pairs = sorted(space.spaces.items())
        prefix = f"{key}/" if key else ""
        return [box for name, inner in pairs for box in _boxes(where, inner, f"{prefix}{name}")]
    name = f"observation {key!r}" if key else "observations"
    if kind != "Box":
        raise UserError(
            f"{where}: {name}: a space {kind} is not supported: they must be boxes of numbers"
        )
    if space.dtype.kind in "iu" and len(space.shape) > 1:
        raise UserError(
            f"{where}: {name}: images of shape {space.shape} are not supported: choose other parts"
        )
    return [(key, math.prod(space.shape))]


def row(observation: Any, chosen: Parts) -> np.ndarray:
    """[O] float32 of one observation."""
    if len(chosen) == 1 and not chosen[0][0] and np.size(observation) == chosen[0][1]:
        return np.asarray(observation, np.float32).reshape(-1)
    return rows("", _leading(observation), chosen)[0].astype(np.float32)


def _leading(observation: Any) -> Any:
    """The observation as the only row of arrays."""
    if isinstance(observation, Mapping):
        return {key: _leading(value) for key, value in observation.items()}
    return np.asarray(observation)[None]


def rows(where: str, observations: Any, chosen: Parts) -> np.ndarray:
    """[R, O] of arrays [R, …], or of dictionaries of them. Raises `UserError` if one is missing."""
    arrays = []
    for key, width in chosen:
        array = observations
        for name in key.split("/") if key else ():
            if not isinstance(array, Mapping) or name not in array:
                raise UserError(f"{where}: observation {key!r} is missing")
            array = array[name]
        array = np.asarray(array)
        array = array.reshape(len(array), -1)
        if array.shape[1] != width:
            raise UserError(
                f"{where}: observation {key!r} is {array.shape[1]} wide, its space says {width}"
            )
        arrays.append(array)
    if len({len(array) for array in arrays}) > 1:
        raise UserError(f"{where}: parts of the observations have different numbers of rows")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)


def bounds(where: str, space: Any) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest action [A] each, infinite where there is no bound.

    Raises `UserError` for anything but a box of numbers.
    """
    kind = type(space).__name__
    if kind != "Box" or space.dtype.kind != "f":
        what = f"Box of {space.dtype}" if kind == "Box" else kind
        raise UserError(
            f"{where}: its actions are a space {what}, which is not supported: they must be a box of "
            "floating-point numbers"
        )
    return space.low.reshape(-1), space.high.reshape(-1)
