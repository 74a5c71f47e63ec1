"""How this package wants JAX to be, whatever the variables of the surroundings or a caller say.

A run's bits are a function of its config, so what changes numbers is fixed here: 32 bits, and the
generator of random numbers that all runs have used. JAX is imported on first use.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

from qgf_jax.errors import UserError

_STANDARD: dict[str, Any] = {
    "enable_x64": False,
    "default_prng_impl": "threefry2x32",
    "threefry_partitionable": True,
    # Of products that do not say; those of networks do, by the config key `precision`.
    "default_matmul_precision": "highest",
    "numpy_dtype_promotion": "standard",
    "transfer_guard": "allow",
    "disable_jit": False,
}
"""Options of JAX, each a context manager `jax.NAME` and a variable `JAX_NAME`."""

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def set_variables() -> None:
    """Fixes the options for this process and its children; before JAX is imported."""
    os.environ.update({f"JAX_{name.upper()}": str(value) for name, value in _STANDARD.items()})


@contextlib.contextmanager
def standard() -> Generator[None]:
    """Fixes the options for a while, in a program that may have chosen others."""
    import jax

    with contextlib.ExitStack() as stack:
        for name, value in _STANDARD.items():
            stack.enter_context(getattr(jax, name)(value))
        yield


def standardized(call: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """`call` under `standard`."""

    @functools.wraps(call)
    def wrapper(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        with standard():
            return call(*args, **kwargs)

    return wrapper


def devices(*, local: bool = False) -> list[Any]:
    """All devices, or this host's. Raises `UserError` if the platform that was asked for has none."""
    import jax

    try:
        return jax.local_devices() if local else jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        asked = f"JAX_PLATFORMS={platforms}" if platforms else "JAX"
        cause = " ".join(str(error).split())[:160]
        raise UserError(
            f"{asked}: there is no such device here{f' ({cause})' * bool(cause)}: "
            "set JAX_PLATFORMS=cpu, or unset it"
        ) from None
