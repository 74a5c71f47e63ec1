"""Whether there is anything to learn from: starts whose steps lie within one trajectory. No JAX.

Other starts are drawn too, and weigh 0 in the losses (see `chunks`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qgf_jax.errors import UserError, log


def check_longest(path: Path, ends: np.ndarray, data: Mapping[str, Any]) -> int:
    """The steps that a start needs by the section `data` of a config.

    `ends` [T] are the last rows of the trajectories. Raises `UserError` if none is as long.
    """
    steps, longest = max(data["chunk"], data["n_step"]), int(_lengths(ends).max())
    if longest >= steps:
        return steps
    if longest < data["chunk"]:
        remedy = f"data.chunk={longest}" + " and data.n_step=0" * bool(data["n_step"])
    else:
        remedy = f"data.n_step={longest}"
    raise UserError(
        f"{path}: no trajectory has {steps} transitions in a row; the longest has {longest}: "
        f"set {remedy}, or use other data"
    )


def check_drawn(
    path: Path, ends: np.ndarray, firsts: np.ndarray, size: int, data: Mapping[str, Any]
) -> None:
    """Raises `UserError` if all starts that are drawn weigh 0; warns in one line if most do.

    They are the `size` transitions from each of `firsts` [K] on.
    """
    key = "chunk" if data["chunk"] >= data["n_step"] else "n_step"
    steps, total = data[key], size * len(firsts)
    count = count_whole(ends, firsts, size, steps)
    if not count:
        raise UserError(
            f"{path}: no start that is drawn has {steps} transitions in a row: set a smaller "
            f"data.{key}, or data.schedule=uniform"
        )
    if 2 * count < total:
        log(
            f"qgf: warning: {path}: {1 - count / total:.0%} of all starts weigh 0, as their "
            f"trajectories end within data.{key}={steps} steps: a smaller one learns from more data"
        )


def count_whole(ends: np.ndarray, firsts: np.ndarray, size: int, steps: int) -> int:
    """How many of those starts have `steps` transitions in a row; shared ones count repeatedly."""
    lengths = _lengths(ends)
    begins, whole = np.cumsum(lengths) - lengths, np.maximum(lengths - steps + 1, 0)
    before = np.cumsum(whole) - whole

    def below(transition: np.ndarray) -> np.ndarray:
        trajectory = np.searchsorted(begins, transition, "right") - 1
        return before[trajectory] + np.minimum(transition - begins[trajectory], whole[trajectory])

    return int((below(firsts + size) - below(firsts)).sum())


def _lengths(ends: np.ndarray) -> np.ndarray:
    """Transitions of each trajectory [T]: its last row is none."""
    return np.diff(ends, prepend=-1) - 1
