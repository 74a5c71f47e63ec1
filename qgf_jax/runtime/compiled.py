"""Where JAX keeps compiled programs between two starts."""

import hashlib
import os
import platform
import sys
from pathlib import Path


def keep_compiled() -> None:
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
