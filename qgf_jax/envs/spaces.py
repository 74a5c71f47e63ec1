"""Gymnasium's spaces as rows of numbers: the same order for an environment and for its data. No JAX.

A dictionary is flattened in the order of its sorted keys, one within another as `outer/inner`. Only
boxes of numbers are observations or actions here.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.errors import UserError

Widths = tuple[tuple[str, int], ...]
"""(key, numbers) of each part of an observation, in order."""

_WHOLE = "observations"
"""The key under which data have an observation that is not made of parts."""


class Parts(NamedTuple):
    """The parts of an observation, in the order in which they are one row of numbers."""

    widths: Widths
    """Of each; the key is "" where there is one box."""

    @classmethod
    def of(cls, where: str, space: Any, chosen: Sequence[str] = ()) -> "Parts":
        """The parts of an observation space, all or the `chosen` ones in that order.

        Raises `UserError` for anything that is not made of boxes, and for a key that there is not.
        """
        found = dict(_leaves(space))
        for key in chosen:
            if key not in found:
                raise UserError.unknown(f"part of {where}'s observations", key, found)
        return cls(tuple((key, _width(where, key, found[key])) for key in chosen or found))

    @classmethod
    def as_in_data(cls, where: str, space: Any, data: Widths) -> "Parts":
        """The parts of an environment's observations that its data have, in the data's order.

        All where the data name none, or where the space is one box. Raises `UserError` for a part that
        the environment lacks, or that has another width there.
        """
        if not data or type(space).__name__ != "Dict":
            return cls.of(where, space)
        found = dict(_leaves(space))
        for key, width in data:
            own = _width(where, key, found[key]) if key in found else None
            if own != width:
                has = f"no such part, but {', '.join(found)}" if own is None else str(own)
                raise UserError(
                    f"{where}: the data's observations have {width} numbers in {key!r}, the "
                    f"environment's have {has}: these are another environment's data, or choose other "
                    "parts with `qgf convert --observations`"
                )
        return cls(data)

    @property
    def width(self) -> int:
        """O, the numbers of all."""
        return sum(width for _, width in self.widths)

    def row(self, observation: Any) -> np.ndarray:
        """[O] float32 of one observation."""
        key, width = self.widths[0]
        if not key and np.size(observation) == width:  # one box, and in haste beside a simulator
            return np.asarray(observation, np.float32).reshape(-1)
        return self.rows("", _leading(observation))[0].astype(np.float32)

    def rows(self, where: str, observations: Any) -> np.ndarray:
        """[R, O] of arrays [R, …], or of dictionaries of them. Raises `UserError` if one is missing."""
        arrays = [_part(where, observations, key, width) for key, width in self.widths]
        if len({len(array) for array in arrays}) > 1:
            raise UserError(f"{where}: parts of the observations have different numbers of rows")
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)


def part(where: str, observation: Any, key: str) -> Any:
    """What dictionaries, one within another, have under `key`. Raises `UserError` if it is missing."""
    for name in key.split("/") if key else ():
        if not isinstance(observation, Mapping) or name not in observation:
            raise UserError(f"{where}: observation {key!r} is missing")
        observation = observation[name]
    return observation


def _part(where: str, observations: Any, key: str, width: int) -> np.ndarray:
    """[R, width] of the part `key`."""
    array = np.asarray(part(where, observations, key))
    array = array.reshape(len(array), -1)
    if array.shape[1] != width:
        raise UserError(
            f"{where}: observation {key!r} is {array.shape[1]} wide, its space says {width}"
        )
    return array


def _leading(observation: Any) -> Any:
    """The observation as the only row of arrays."""
    if isinstance(observation, Mapping):
        return {key: _leading(value) for key, value in observation.items()}
    return np.asarray(observation)[None]


def named(said: Any) -> Widths:
    """The parts that a record of data names, [[key, width], …]; none if it says no such thing.

    One box is not made of parts, whatever keys an environment has.
    """
    try:
        parts = tuple((key, width) for key, width in said)
    except (TypeError, ValueError):
        return ()
    sound = all(isinstance(key, str) and type(width) is int and width > 0 for key, width in parts)
    return parts if sound and [key for key, _ in parts] != [_WHOLE] else ()


def _leaves(space: Any, key: str = "") -> Sequence[tuple[str, Any]]:
    """(key, space) of each part, whatever it is, in order."""
    if type(space).__name__ != "Dict":
        return [(key, space)]
    prefix = f"{key}/" if key else ""
    pairs = sorted(space.spaces.items())
    return [leaf for name, inner in pairs for leaf in _leaves(inner, f"{prefix}{name}")]


def _width(where: str, key: str, space: Any) -> int:
    """The numbers of a part. Raises `UserError` unless it is a box of them."""
    kind = type(space).__name__
    name = f"observation {key!r}" if key else "observations"
    if kind != "Box":
        raise UserError(
            f"{where}: {name}: a space {kind} is not supported: they must be boxes of numbers"
        )
    if space.dtype.kind in "iu" and len(space.shape) > 1:
        raise UserError(
            f"{where}: {name}: images of shape {space.shape} are not supported: choose other parts"
        )
    return math.prod(space.shape)


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
