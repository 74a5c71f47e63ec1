"""Counts that are kept in the cache folder, each under a hash of all that it depends on.

QGF_CACHE=off keeps nothing, nor does a home that cannot be written.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import qgf_jax
from qgf_jax.methods.parts import KINDS, Part

QUICKLY: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""Options of XLA for a CPU: of a program that is counted and never run, machine code may be poor."""


class CountFile(NamedTuple):
    """A file of the cache folder for one count."""

    path: Path | None
    """`None` if nothing is to be kept."""

    @classmethod
    def of(cls, kind: str, rooms: Collection[str], *about: str) -> "CountFile":
        """That of a `kind` of count.

        Its name is a hash of `about`, of this package's and JAX's version, and of the sources: the
        files of these rooms of the package, and those of other packages' parts.
        """
        if os.environ.get("QGF_CACHE") == "off":
            return cls(None)
        versions = qgf_jax.__version__, importlib.metadata.version("jax")
        text = "\n".join([*about, *versions, *_sources(tuple(rooms))])
        try:
            folder = Path.home() / ".cache" / "qgf_jax" / kind
        except RuntimeError:  # there is no home
            return cls(None)
        return cls(folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json")

    def read(self, fields: Collection[str]) -> dict[str, Any]:
        """What it holds, or nothing if it has not just these fields."""
        try:
            found = json.loads(self.path.read_text()) if self.path else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.keys() == {*fields} else {}

    def write(self, found: dict[str, Any]) -> None:
        """Writes it whole or not at all."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside = self.path.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(found))
            beside.replace(self.path)
        except OSError:
            return


@functools.cache
def _sources(rooms: tuple[str, ...]) -> tuple[str, ...]:
    """SHA-256 of each file that a count depends on."""
    package = Path(__file__).parent.parent
    files = {path for room in rooms for path in package.glob(f"{room}/**/*.py")}
    files |= {package / "types.py", package / "runtime" / "flops.py"}
    for kind in KINDS:
        for found in Part.all(kind).values():
            module = sys.modules.get(getattr(found.make, "__module__", ""))
            if path := getattr(module, "__file__", None):
                files.add(Path(path))
    return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files))
