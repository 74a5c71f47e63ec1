"""Modules that load when a part first runs, so that the table of methods answers without JAX.

Python 3.15 has `lazy import` for this. A part writes `from qgf_jax.methods.lazy import flow, jax, jnp`;
a part outside this package may import JAX as usual and costs its users that second.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax
    import jax.numpy as jnp
    import optax

    from qgf_jax.core import (
        adjoint,
        aggregates,
        checks,
        diffusion,
        flow,
        inpainting,
        losses,
        networks,
        norms,
        particles,
    )
else:

    class _Module:
        """Stands for a module and imports it when an attribute is first asked for."""

        def __init__(self, name: str):
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    jax = _Module("jax")
    jnp = _Module("jax.numpy")
    optax = _Module("optax")
    adjoint = _Module("qgf_jax.core.adjoint")
    checks = _Module("qgf_jax.core.checks")
    diffusion = _Module("qgf_jax.core.diffusion")
    aggregates = _Module("qgf_jax.core.aggregates")
    flow = _Module("qgf_jax.core.flow")
    inpainting = _Module("qgf_jax.core.inpainting")
    losses = _Module("qgf_jax.core.losses")
    networks = _Module("qgf_jax.core.networks")
    norms = _Module("qgf_jax.core.norms")
    particles = _Module("qgf_jax.core.particles")

__all__ = [
    "adjoint",
    "aggregates",
    "checks",
    "diffusion",
    "flow",
    "inpainting",
    "jax",
    "jnp",
    "losses",
    "networks",
    "norms",
    "optax",
    "particles",
]
