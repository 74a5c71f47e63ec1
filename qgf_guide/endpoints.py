"""The endpoint that every rule has unless it is given another."""

from typing import Any

from qgf_guide import lazy
from qgf_guide.types import Array


def one_straight_step(action: Array, t: Array, velocity: Array, **box: Any) -> Array:
    """`flow.endpoint`."""
    return lazy.flow.endpoint(action, t, velocity, **box)
