"""What float32 can tell apart of a dimension's spread. No JAX."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qgf_jax.errors import log_once

_STEPS = 128
"""of float32, at the largest magnitude of a dimension; a smaller spread is mostly rounding and noise"""

_LEAST = 1e-6
"""a smaller spread is a simulator's noise, whatever the magnitude"""


def _resolution(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The spread [D] that takes so many steps of float32 between `low` [D] and `high` [D]."""
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    return _STEPS * np.finfo(np.float32).eps * largest


def is_still(std: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """[D], whether a dimension of standard deviation `std` [D] is not to be divided by it."""
    return std < np.maximum(_LEAST, _resolution(low, high))


def name_rounded(path: Path, observations: np.ndarray) -> None:
    """Says in one line which dimensions of `observations` [R, D] float32 cannot hold."""
    if observations.dtype.itemsize <= 4:
        return
    lost = []
    for i, column in enumerate(observations.T):
        low, high = column.min(), column.max()
        little = low < high and column.std() < _resolution(low, high)
        if little and (column != column.astype(np.float32)).any():
            lost.append(i)
    if lost:
        log_once(
            f"qgf: warning: {path}: {listed('observation', lost)}: too little spread beside the size "
            "for float32, to which they are rounded: subtract a constant in the file"
        )


def listed(noun: str, numbers: Sequence[int]) -> str:
    """ "observations 3, 7 and 5 more"."""
    shown = ", ".join(str(n) for n in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{noun}{'s' if len(numbers) > 1 else ''} {shown}{more}"


_SHOWN = 10
