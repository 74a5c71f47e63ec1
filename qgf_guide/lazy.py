"""Modules that load when a part first runs, so that tables of parts answer without JAX.

Python 3.15 has `lazy import` for this. A part writes `from qgf_guide.lazy import flow, jax, jnp`; a part
of another package may import JAX as usual and costs its users that second.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax
    import jax.numpy as jnp

    from qgf_guide import aggregates, flow, inpainting, norms
else:

    class Module:
        """Stands for a module and imports it when an attribute is first asked for."""

        def __init__(self, name: str):
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    jax = Module("jax")
    jnp = Module("jax.numpy")
    aggregates = Module("qgf_guide.aggregates")
    flow = Module("qgf_guide.flow")
    inpainting = Module("qgf_guide.inpainting")
    norms = Module("qgf_guide.norms")

__all__ = ["aggregates", "flow", "inpainting", "jax", "jnp", "norms"]
