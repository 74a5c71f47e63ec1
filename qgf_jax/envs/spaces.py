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

        Raises `UserError` for anything that is not made of boxes, for a key that there is not, and
        where two parts have one name or there is no number.
        """
        leaves = _leaves(space)
        found = dict(leaves)
        if len(found) < len(leaves):
            raise UserError(
                f"{where}: two parts of its observations are called alike ({', '.join(found)}), one by "
                "a key with a slash and one within another: rename one"
            )
        for key in chosen:
            if key not in found:
                raise UserError.unknown(f"part of {where}'s observations", key, found)
        parts = cls(tuple((key, _width(where, key, found[key])) for key in chosen or found))
        if not parts.width:
            raise UserError(
                f"{where}: its observations have no number: they must be boxes of numbers"
            )
        return parts

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

    def row(self, where: str, observation: Any) -> np.ndarray:
        """[O] float32 of one observation. Raises `UserError` if a part is missing."""
        key, width = self.widths[0]
        if not key and np.size(observation) == width:  # one box, and in haste beside a simulator
            return np.asarray(observation, np.float32).reshape(-1)
        return self.rows(where, _leading(observation))[0].astype(np.float32)

    def rows(self, where: str, observations: Any) -> np.ndarray:
        """[R, O] of arrays [R, …], or of dictionaries of them. Raises `UserError` if one is missing."""
        arrays = [_part(where, observations, key, width) for key, width in self.widths]
        if len({len(array) for array in arrays}) > 1:
            raise UserError(f"{where}: parts of the observations have different numbers of rows")
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)

    @staticmethod
    def find(where: str, observation: Any, key: str) -> Any:
        """What dictionaries, one within another, have under `key`; `UserError` if it is missing."""
        found = _find(observation, key) if key else observation
        if found is None:
            raise UserError(f"{where}: observation {key!r} is missing")
        return found


def _part(where: str, observations: Any, key: str, width: int) -> np.ndarray:
    """[R, width] of the part `key`."""
    array = np.asarray(Parts.find(where, observations, key))
    array = array.reshape(len(array), -1)
    if array.shape[1] != width:
        what = f"observation {key!r} is" if key else "an observation is"
        raise UserError(f"{where}: {what} {array.shape[1]} wide, its space says {width}")
    return array


def _find(observations: Any, key: str) -> Any:
    """What stands under `key`, itself or one within another; `None` if nothing does.

    A key may have a slash of its own.
    """
    if not isinstance(observations, Mapping):
        return None
    if key in observations:
        return observations[key]
    heads = [key[:i] for i, letter in enumerate(key) if letter == "/" and key[:i] in observations]
    within = (_find(observations[head], key[len(head) + 1 :]) for head in heads)
    return next((found for found in within if found is not None), None)


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
    if not math.prod(space.shape):
        raise UserError(f"{where}: its actions are a box of shape {space.shape}, without a number")
    return space.low.reshape(-1), space.high.reshape(-1)
