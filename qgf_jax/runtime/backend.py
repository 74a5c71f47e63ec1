"""JAX's settings: those that are fixed, and those that are chosen by platform.

The bits of a run are a function of its config. So whatever changes numbers is fixed here, regardless of
environment variables and of the caller: 32 bits, the precision of products, and the generator of random
numbers. What changes speed and memory, and results by rounding at most, is chosen here too: variables by
`tune`, before JAX is imported, and numbers that the user left open by `choose`. JAX is imported on first
use.
"""

import contextlib
import functools
import hashlib
import importlib.util
import mmap
import os
import platform
import sys
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

from qgf_jax.errors import UserError, log, said

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
"""Options of JAX: each has a context manager `jax.NAME` and a variable `JAX_NAME`."""

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def set_variables() -> None:
    """Fixes the options for this process and its children; before JAX is imported.

    Also says where JAX keeps compiled programs.
    """
    os.environ.update({f"JAX_{name.upper()}": str(value) for name, value in _STANDARD.items()})
    _keep_compiled()


def _keep_compiled() -> None:
    """Has JAX keep compiled programs on disk, so that the next start of a config is quicker.

    In ~/.cache/qgf_jax, a folder for each kind of processor, as a program is compiled for one, and
    for each Python, as JAX compresses in another way on 3.14 under the same names. A variable
    JAX_COMPILATION_CACHE_DIR of one's own is heeded, and QGF_CACHE=off keeps nothing.
    """
    if os.environ.get("QGF_CACHE") == "off":
        return
    try:
        about = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        kind = "\n".join(x for x in about.splitlines() if x.startswith(("model name", "flags")))
        name = hashlib.sha256(f"{platform.machine()}\n{kind}".encode()).hexdigest()[:12]
        python = ".".join(map(str, sys.version_info[:2]))
        folder = Path.home() / ".cache" / "qgf_jax" / "compiled" / name / python
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a home that cannot be written: nothing is kept
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


@contextlib.contextmanager
def _standard() -> Generator[None]:
    """Fixes the options for the block."""
    import jax

    with contextlib.ExitStack() as stack:
        for name, value in _STANDARD.items():
            stack.enter_context(getattr(jax, name)(value))
        yield


def standardized(call: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """`call` with the options fixed, in a program that may have chosen others."""

    @functools.wraps(call)
    def wrapper(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        with _standard():
            return call(*args, **kwargs)

    return wrapper


def devices(*, local: bool = False) -> list[Any]:
    """All devices, or this host's. Raises `UserError` if the requested platform has none."""
    import jax

    try:
        return jax.local_devices() if local else jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        asked = f"JAX_PLATFORMS={platforms}" if platforms else "JAX"
        cause = said(error)
        raise UserError(
            f"{asked}: there is no such device here{f' ({cause})' * bool(cause)}: "
            "set JAX_PLATFORMS=cpu, or unset it"
        ) from None


class _Flag(NamedTuple):
    """A flag of XLA that makes programs faster."""

    name: str
    value: str
    widest: int
    """It helps if the widest layer has at least so many units."""
    words: tuple[bytes, ...]
    """Strings in every library that knows the flag and its value."""


_FLAGS = (
    # For a CPU. Its library of kernels does matrix products alone, as XLA's own loops do the rest
    # quicker: an update takes 0.8 of the time at width 8 and 0.96 at width 512.
    _Flag(
        "xla_cpu_experimental_ynn_fusion_type",
        "individual_dot",
        0,
        (b"xla_cpu_experimental_ynn_fusion_type\0", b"LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"),
    ),
    # With wide layers these loops use the longest vectors: another 2 %; small ones lose by it.
    _Flag("xla_cpu_prefer_vector_width", "512", 256, (b"xla_cpu_prefer_vector_width\0",)),
)


def tune(*, widest: int = 0, alone: bool = True) -> None:
    """Sets XLA's flags, and how it takes a card's memory; call it before JAX is imported.

    `widest`: units of the widest layer, if known. A process that is not `alone` takes memory as it needs
    it, and not three quarters of the card at once as JAX does by default: a training or a renderer may
    run beside it. Variables that the user has set win.
    """
    if "jax" in sys.modules:
        return
    given = os.environ.get("XLA_FLAGS", "")
    useful = [f for f in _FLAGS if widest >= f.widest and f"--{f.name}" not in given]
    known = [f"--{flag.name}={flag.value}" for flag in useful if _is_known(flag)]
    os.environ["XLA_FLAGS"] = " ".join([given, *known]).strip()
    if not alone and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
        os.environ.setdefault(_PREALLOCATE, "false")


_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


def _is_known(flag: _Flag) -> bool:
    """Whether all libraries know the flag: each ends the process at a flag that it does not know.

    JAX has no list of flags, and trying one in another process takes a second. Searching the library
    files for the flag's strings takes milliseconds.
    """
    libraries = _libraries()
    return bool(libraries) and all(_holds(library, flag.words) for library in libraries)


def _libraries() -> list[Path]:
    """The files of the libraries that read XLA_FLAGS: jaxlib's and the plug-ins for other platforms."""
    patterns = {"jaxlib": "libjax_common.*", "jax_plugins": "*/*.so", "libtpu": "libtpu.so"}
    libraries = []
    for package, pattern in patterns.items():
        spec = importlib.util.find_spec(package)
        folders = (spec.submodule_search_locations if spec else None) or ()
        libraries += [path for folder in folders for path in sorted(Path(folder).glob(pattern))]
    return libraries


def _holds(library: Path, words: Collection[bytes]) -> bool:
    try:
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return all(data.find(word) >= 0 for word in words)
    except (OSError, ValueError):
        return False


def choose(name: str, given: int, *, quiet: bool = False) -> int:
    """`given`, or what suits the platform if that is 0. Logs it with the flags, unless `quiet`."""
    device, cores = devices()[0], os.cpu_count() or 1
    value = given or _default(name, device.platform, cores)
    variables = ("XLA_FLAGS", _PREALLOCATE) if device.platform != "cpu" else ("XLA_FLAGS",)
    also = "".join(f" {v}='{os.environ[v]}'" for v in variables if os.environ.get(v))
    if not quiet:
        log(f"platform: {device.device_kind}, {cores} cores: {name}={value}{also}")
    return value


def _default(name: str, platform: str, cores: int) -> int:
    """The number for a setting that is 0, for a platform of JAX's and so many cores of the host.

    On an accelerator, and in the maze on the device, the number of environments that act at once may
    change the last bits of an action, so there it does not depend on the host.
    """
    on_cpu, on_accelerator = {
        # A dispatch costs the host about as much as an update of a small network an accelerator.
        "train.steps_per_dispatch": (100, 1000),
        # As many as keep the cores busy while others act, in 25 MB each.
        "eval.envs": (min(max(10, 4 * cores), 100), 64),
        # Of each seed, in the simulator on the device.
        "--envs=jax": (64, 1024),
    }[name]
    return on_cpu if platform == "cpu" else on_accelerator
