"""Gymnasium's spaces as rows of numbers: the same order for an environment and for its data. No JAX.

A dictionary is flattened in the order of its sorted keys, one within another as `outer/inner`. Only
boxes of numbers are observations or actions here.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qgf_jax.errors import UserError


class Parts(NamedTuple):
    """The parts of an observation, in the order in which they are one row of numbers."""

    widths: tuple[tuple[str, int], ...]
    """(key, numbers) of each; the key is "" where there is one box."""

    @classmethod
    def of(cls, where: str, space: Any, chosen: Sequence[str] = ()) -> "Parts":
        """The parts of an observation space, all or the `chosen` ones in that order.

        Raises `UserError` for anything that is not made of boxes, for a key that there is not, and
        where two parts have one name or there is no number.
        """
        boxes = _boxes(where, space, "")
        found = dict(boxes)
        if len(found) < len(boxes):
            raise UserError(
                f"{where}: two parts of its observations are called alike ({', '.join(found)}), one by "
                "a key with a slash and one within another: rename one"
            )
        if not sum(found.values()):
            raise UserError(
                f"{where}: its observations have no number: they must be boxes of numbers"
            )
        for key in chosen:
            if key not in found:
                raise UserError.unknown(f"part of {where}'s observations", key, found)
        return cls(tuple((key, found[key]) for key in chosen or found))

    @property
    def width(self) -> int:
        """O, the numbers of all."""
        return sum(width for _, width in self.widths)

    def row(self, where: str, observation: Any) -> np.ndarray:
        """[O] float32 of one observation. Raises `UserError` if a part is missing."""
        if len(self.widths) == 1 and not self.widths[0][0] and np.size(observation) == self.width:
            return np.asarray(observation, np.float32).reshape(-1)
        return self.rows(where, _leading(observation))[0].astype(np.float32)

    def rows(self, where: str, observations: Any) -> np.ndarray:
        """[R, O] of arrays [R, …], or of dictionaries of them. Raises `UserError` if one is missing."""
        arrays = [_part(where, observations, key, width) for key, width in self.widths]
        if len({len(array) for array in arrays}) > 1:
            raise UserError(f"{where}: parts of the observations have different numbers of rows")
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)


def _part(where: str, observations: Any, key: str, width: int) -> np.ndarray:
    """[R, width] of the part `key`."""
    array = _find(observations, key) if key else observations
    if array is None:
        raise UserError(f"{where}: observation {key!r} is missing")
    array = np.asarray(array)
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
