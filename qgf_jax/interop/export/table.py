"""`qgf export`: the formats, and what writes them."""

import hashlib
import importlib
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from qgf_jax.errors import UserError, saving
from qgf_jax.methods.options import Options
from qgf_jax.runs.files import write_atomically
from qgf_jax.runtime import backend


class Format(NamedTuple):
    """A row: what a file of this kind is, and the module of this folder whose `write` makes it."""

    about: str
    module: str
    suffix: str
    takes: tuple[str, ...] = ()
    """Flags that mean something, beyond those of every format."""
    packages: tuple[str, ...] = ()
    """That it is written with, beyond those that a run needs."""

    @property
    def acts(self) -> bool:
        """Whether it is of a method, and not of parameters alone."""
        return "method" in self.takes

    def write(self) -> Callable[..., tuple[bytes, dict[str, Any]]]:
        """Chosen -> the file, and what the record says of it."""
        return importlib.import_module(f"qgf_jax.interop.export.{self.module}").write

    @staticmethod
    def named(name: str) -> "Format":
        """The row called `name`; `UserError` with the nearest one if there is none."""
        if name not in FORMATS:
            raise UserError.unknown("format", name, FORMATS)
        return FORMATS[name]

    @classmethod
    def check(cls, name: str, flags: dict[str, Any]) -> None:
        """Raises `UserError` for one that cannot be written, and for a flag that means nothing to it.

        `flags` are those that not every format has; `None` was not given. Needs no JAX.
        """
        row = cls.named(name)
        for flag, value in flags.items():
            if value is not None and flag not in row.takes:
                raise UserError(f"--to={name} has no use for --{flag}: leave it out")
        for package in row.packages:
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f"--to={name} needs {package}, which is not installed: run "
                    "`pip install 'qgf-jax[export]'`"
                )


_METHOD = ("method", "best_of", "batch")
FORMATS = {
    "jax.export": Format(
        "the policy as a serialised program of JAX",
        "jax_program",
        ".jax",
        takes=(*_METHOD, "platforms"),
        packages=("flatbuffers",),
    ),
    "onnx": Format(
        "the policy as a graph, for ONNX Runtime and others; its noise is an input",
        "onnx_graph",
        ".onnx",
        takes=_METHOD,
        packages=("onnx",),
    ),
    "safetensors": Format(
        "the parameters by name, with config and spec",
        "parameters",
        ".safetensors",
        packages=("safetensors",),
    ),
}


@backend.standardized
def export(
    workdir: str | os.PathLike,
    to: str,
    out: str | os.PathLike | None = None,
    *,
    method: str = "qgf",
    options: Options = (),
    best_of: int | None = None,
    seed: int = 0,
    step: int | None = None,
    batch: int | None = None,
    platforms: tuple[str, ...] = (),
) -> Path:
    """Writes a checkpoint of a run as a file of the format `to`, and its record beside it, as JSON.

    Returns the file: `out`, or RUN/export/METHOD-STEP with the suffix of the format. `seed` is the place
    of a seed in the run, and `step` a checkpoint, else the newest sound one. Raises `UserError` for a
    method that the run cannot act with or the format cannot hold, and for a file that is there already.
    """
    from qgf_jax.interop.export.chosen import Chosen
    from qgf_jax.runs.loaded import LoadedRun

    row = Format.named(to)
    loaded = LoadedRun.open(workdir, step)
    name = method if row.acts else "parameters"
    default = Path(workdir) / "export" / f"{name}-{loaded.step}{row.suffix}"
    path = default if out is None else Path(out)
    beside = path.with_name(f"{path.name}.json")
    for there in (path, beside):
        if there.exists():
            raise UserError(f"{there} is there already: remove it, or give another --out")
    chosen = Chosen(loaded, method, options, best_of, seed, batch, platforms)
    content, about = row.write()(chosen)
    record = {"format": to, "sha256": hashlib.sha256(content).hexdigest()}
    record |= chosen.record(row.acts) | about
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    write_atomically(beside, json.dumps(record, indent=1) + "\n")
    return path
