"""Trained seeds side by side: their numbers, and programs over them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def seeds_of(config: Mapping[str, Any]) -> np.ndarray:
    """[S] uint32: `seed`, `seed` + 1, … of a config, each below 2**32."""
    return np.uint32(config["seed"]) + np.arange(config["seeds"], dtype=np.uint32)


def over_seeds(f: Callable[[Any], Any], stacked: Any) -> Any:
    """vmap of `f` over the leading axis, without the vmap if that axis has length 1.

    A batch axis of 1 costs: XLA's batched matrix products are slower than the plain ones.
    """
    if len(jax.tree.leaves(stacked)[0]) > 1:
        return jax.vmap(f)(stacked)
    return jax.tree.map(lambda x: x[None], f(jax.tree.map(lambda x: x[0], stacked)))
