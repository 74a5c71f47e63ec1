"""Engines: what runs the jobs of a sweep, on this machine or on others.

An engine is one function, whose keyword-only arguments are its options on the command line, and which
returns an `Engine`. Each module here declares in `ENGINES` that of its own name; those of other packages
are found by the entry-point group `qgf_jax.engines`, whose entries name such a function. All else, what
is ready, tried again, or done, is settled in `qgf_jax.sweep.launch`.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from qgf_guide.bounds import Field
from qgf_jax.errors import UserError
from qgf_jax.runtime.plugins import ByModule, load_entry
from qgf_jax.sweep.job import Needs

ENGINES = ByModule()
"""Module, called as its engine is -> (options) -> `Engine`."""
OURS = ("local", "ray", "slurm")
"""The engines of this package."""
_GROUP = "qgf_jax.engines"


class Task(NamedTuple):
    """A job, as engines see it: a command that ends with an exit code."""

    name: str
    command: tuple[str, ...]
    """Words, for no shell; the same on every machine that sees the sweep's folder."""
    cwd: Path
    """The folder that it is run in, as configs may name data relative to it."""
    log: Path
    """For what the command itself says; its stages write there too. Its folder may have to be made."""
    needs: Needs


class Engine(Protocol):
    """Runs tasks. It is asked several times a second, by one thread, and never waits."""

    def start(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Begins some of the tasks that are ready, and returns these; the rest is offered again."""
        ...

    def ended(self) -> Iterable[tuple[Task, int]]:
        """The tasks that have ended since this was last called, with their exit codes.

        -n where signal n ended one; any code above 100 where its machine was lost.
        """
        ...

    def stop(self) -> None:
        """Sends SIGTERM to what was begun, and takes back what waits; `ended` tells of all of them."""
        ...


def engines() -> list[str]:
    """The names of all engines, sorted."""
    return sorted({*OURS, *(entry.name for entry in _outside())})


def engine_with(name: str, texts: Mapping[str, str]) -> Callable[[], Engine]:
    """What makes the engine of a name with the options that texts write.

    Raises `UserError`, in one line; a cluster is asked for nothing before the call of what it returns.
    """
    make, options = function_of(name), {}
    fields = Field.declared_in(make)
    for key, text in texts.items():
        if key not in fields:
            raise UserError.unknown(f"flag of `qgf sweep --on={name}`", f"--{key}", _flags(fields))
        options[key] = fields[key].bound.read(f"--{key}", text)
    return functools.partial(make, **options)


def function_of(name: str) -> Callable[..., Engine]:
    """The function of an engine. Raises `UserError` for an unknown name."""
    if name in OURS:
        return ENGINES.of(f"{__name__}.{name}")
    entry = next((entry for entry in _outside() if entry.name == name), None)
    if entry is None:
        raise UserError.unknown("engine", name, engines())
    return load_entry(entry, "an engine")


def _flags(fields: Iterable[str]) -> Iterable[str]:
    return [f"--{name}" for name in fields]


def _outside() -> Iterable[Any]:
    return importlib.metadata.entry_points(group=_GROUP)
