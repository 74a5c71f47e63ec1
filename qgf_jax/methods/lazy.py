"""Modules that load when a part first runs, so that the table of methods answers without JAX.

Those of `qgf_guide.lazy`, and more. A part writes `from qgf_jax.methods.lazy import flow, jax, jnp`.
"""

from typing import TYPE_CHECKING

from qgf_guide.lazy import aggregates, flow, inpainting, jax, jnp, norms

if TYPE_CHECKING:
    import optax

    from qgf_jax.core import adjoint, checks, diffusion, losses, networks, particles, prepared
else:
    from qgf_guide.lazy import Module

    optax = Module("optax")
    adjoint = Module("qgf_jax.core.adjoint")
    checks = Module("qgf_jax.core.checks")
    diffusion = Module("qgf_jax.core.diffusion")
    losses = Module("qgf_jax.core.losses")
    networks = Module("qgf_jax.core.networks")
    particles = Module("qgf_jax.core.particles")
    prepared = Module("qgf_jax.core.prepared")

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
    "prepared",
]
