"""Shared types, of one action [D], with observation and parameters already bound.

Importing this module does not import JAX.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax import Array
else:
    Array = Any

Velocity = Callable[[Array, Array], Array]
"""(action [D], t []) -> velocity [D]."""
Critic = Callable[[Array], Array]
"""action [D] -> Q []."""
Direction = Callable[[Array, Array], tuple[Array, Array]]
"""(action [D], t []) -> (velocity [D], direction of guidance [D] before the weight)."""
Endpoint = Callable[..., Array]
"""(action [D], t [], velocity there [D], *, clip=True) -> the clean action [D] it leads to."""
