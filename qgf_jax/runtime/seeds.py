"""Trained seeds side by side: their numbers, programs over them, and the devices their arrays lie on."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from qgf_jax.runtime import backend


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


def sharding(seeds: int) -> Any:
    """The sharding of arrays whose leading axis is `seeds` trained seeds, over this host's devices."""
    here = backend.devices(local=True)
    count = next(n for n in range(min(seeds, len(here)), 0, -1) if seeds % n == 0)
    if count == 1:
        return SingleDeviceSharding(here[0])
    return NamedSharding(Mesh(np.array(here[:count]), ("seeds",)), PartitionSpec("seeds"))
