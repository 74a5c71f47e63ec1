"""What two devices have computed, beside one another."""

from typing import Any

import jax
import numpy as np

TOLERANCES = {
    # Of the largest number: losses, gradients of a group, its parameters after ten updates. Of
    # actions, which are at most 1.
    "float32": {"losses": 1e-5, "gradients": 1e-5, "ten updates": 1e-5, "actions": 2e-5},
    "tf32": {"losses": 2e-3, "gradients": 1e-2, "ten updates": 5e-5, "actions": 1e-2},
    "bfloat16": {"losses": 2e-2, "gradients": 5e-2, "ten updates": 3e-4, "actions": 5e-2},
}
MOVEMENT = 2e-2
"""Of ten updates by Adam, in L2 of how far they went: where a gradient is next to nothing, rounding
decides its sign, and Adam makes a whole step of that."""


def compare(found: Any, expected: Any, tolerance: float, *, share: float = 1.0) -> dict[str, Any]:
    """The largest difference of two trees, as a share of the largest number that was expected.

    With `share` below 1 rows of arrays count one by one, and so many of them must be within.
    """
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    wide = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    if any(a.shape != b.shape for a, b in wide):
        return {"ok": False, "difference": None, "tolerance": tolerance, "cause": "other shapes"}
    scale = max(float(np.abs(b).max(initial=0.0)) for _, b in wide) or 1.0
    away = [np.abs(a - b).reshape(len(a) if share < 1 else 1, -1).max(axis=1) for a, b in wide]
    difference = float(np.quantile(np.concatenate(away), share)) / scale
    sound = bool(np.isfinite(difference))
    return {
        "ok": sound and difference <= tolerance,
        "difference": difference if sound else None,
        "tolerance": tolerance,
        "scale": scale,
    }


def movement(found: Any, expected: Any, begin: Any) -> dict[str, Any]:
    """How far two ends of one way lie apart, as a share of its length, in L2; the worst group."""

    def far(a: Any, b: Any) -> float:
        leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return float(np.sqrt(sum(((x.astype(np.float64) - y) ** 2).sum() for x, y in leaves)))

    apart = max(far(found[g], expected[g]) / far(expected[g], begin[g]) for g in expected)
    sound = bool(np.isfinite(apart))
    return {
        "ok": sound and apart <= MOVEMENT,
        "difference": apart if sound else None,
        "tolerance": MOVEMENT,
    }
