"""How the guidance weight changes on the way from noise, t = 0, to data, t = 1."""

from typing import Any

from qgf_guide.lazy import jnp
from qgf_guide.parts import schedule
from qgf_guide.types import Array


@schedule(source="Zhou et al., 2026, arXiv 2606.11087")
def _constant(t: Array, cap: float) -> Any:
    """The weight as it is."""
    del t, cap
    return 1.0


@schedule()
def _linear(t: Array, cap: float) -> Array:
    """Times 1 - t."""
    del cap
    return 1.0 - t


@schedule(source="docs/guidance.md, Eq. 2")
def _ratio(t: Array, cap: float) -> Array:
    """Times (1 - t) / t, at most `cap`."""
    return 1.0 / jnp.maximum(t, 1.0 / (1.0 + cap)) - 1.0
