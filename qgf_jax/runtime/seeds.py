"""Programs over trained seeds side by side."""

from collections.abc import Callable
from typing import Any

import jax


def over_seeds(f: Callable[[Any], Any], stacked: Any) -> Any:
    """vmap of `f` over the leading axis, without the vmap if that axis has length 1.

    A batch axis of 1 costs: XLA's batched matrix products are slower than the plain ones.
    """
    if len(jax.tree.leaves(stacked)[0]) > 1:
        return jax.vmap(f)(stacked)
    return jax.tree.map(lambda x: x[None], f(jax.tree.map(lambda x: x[0], stacked)))
