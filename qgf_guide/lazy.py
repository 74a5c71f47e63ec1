"""Modules that load when a part first runs, so that tables of parts answer without JAX.

`jax` and `jnp` are JAX's, except while `qgf_guide.torch` runs: then the same names compute with PyTorch,
so that a rule is written once.

Python 3.15 has `lazy import` for this. A part writes `from qgf_guide.lazy import flow, jax, jnp`; a part
of another package may import JAX as usual and costs its users that second.
"""

import contextlib
import contextvars
import importlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

_others: contextvars.ContextVar[Any] = contextvars.ContextVar("_others", default=None)
"""What stands for JAX in this thread: an object with attributes `jax` and `jnp`, or None for JAX."""

if TYPE_CHECKING:
    import jax
    import jax.core
    import jax.numpy as jnp

    from qgf_guide import aggregates, flow, inpainting, norms
else:

    class Module:
        """Stands for a module and imports it when an attribute is first asked for."""

        def __init__(self, name: str):
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    class Names(Module):
        """As `Module`, for JAX, in whose place another library may be."""

        def __init__(self, name: str, short: str):
            super().__init__(name)
            self._short = short

        def __getattr__(self, attribute: str) -> Any:
            others = _others.get()
            if others is None:
                return super().__getattr__(attribute)
            return getattr(getattr(others, self._short), attribute)

    jax = Names("jax", "jax")
    jnp = Names("jax.numpy", "jnp")
    aggregates = Module("qgf_guide.aggregates")
    flow = Module("qgf_guide.flow")
    inpainting = Module("qgf_guide.inpainting")
    norms = Module("qgf_guide.norms")


@contextlib.contextmanager
def computing_with(others: Any) -> Generator[None, None, None]:
    """Within it, and in this thread alone, `jax` and `jnp` are `others.jax` and `others.jnp`."""
    token = _others.set(others)
    try:
        yield
    finally:
        _others.reset(token)


def is_jax() -> bool:
    """Whether `jax` and `jnp` are JAX's here."""
    return _others.get() is None


__all__ = ["aggregates", "computing_with", "flow", "inpainting", "is_jax", "jax", "jnp", "norms"]
