"""Compiled programs that act with the parameters of one checkpoint after another."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from qgf_jax.runs.loaded import LoadedRun


class Compiled:
    """`call(params, *arrays)`, compiled once for the parameters of a run and for `shapes`."""

    def __init__(self, call: Callable[..., Any], loaded: LoadedRun, *shapes: Any):
        self._sharding = loaded.sharding()
        self._params = jax.device_put(loaded.params, self._sharding)
        self._call = jax.jit(call).lower(self._params, *shapes).compile()

    def __call__(self, *arrays: Any) -> Any:
        """What `call` gives for the arrays, as NumPy's."""
        return jax.tree.map(np.asarray, self._call(self._params, *arrays))

    def take(self, loaded: LoadedRun) -> bool:
        """Acts with another checkpoint of the run from now on; false if it has other parameters.

        Constants that the first checkpoint did not have yet are left out: what was compiled without
        them needs none.
        """
        mine = {name: loaded.params[name] for name in self._params if name in loaded.params}
        if _shapes(mine) != _shapes(self._params):
            return False
        self._params = jax.device_put(mine, self._sharding)
        return True


def _shapes(params: Any) -> Any:
    leaves, tree = jax.tree.flatten(params)
    return tree, [(x.shape, x.dtype) for x in leaves]
