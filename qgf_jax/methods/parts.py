"""Parts of methods: policy learners, critics, samplers and guidance rules, each declared in one file.

A part is a function with a decorator. Its keyword-only arguments are its hyperparameters, with
default, bounds and help; the decorator says what it provides, what it needs, and whose it is:

    @critic(provides=("q", "target_q", "v"), source="Kostrikov et al., 2022, arXiv 2110.06169")
    def iql(nets, sample, *, expectile: Annotated[OpenFraction, "level of V's expectile"] = 0.9):
        ...

Parts of other packages are found by the entry-point group `qgf_jax.parts`, whose entries name modules.
No JAX here, nor while the package's own parts are declared.
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from qgf_jax import bounds
from qgf_jax.bounds import Field
from qgf_jax.errors import unknown_name_error

KINDS = ("policy", "critic", "sampler", "rule")
_PACKAGES = ("policies", "critics")  # samplers and rules follow
_GROUP = "qgf_jax.parts"
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Part:
    """A declared part."""

    kind: str
    """One of `KINDS`."""
    name: str
    make: Callable[..., Any]
    """The function that was declared."""
    fields: Mapping[str, Field]
    """Its hyperparameters."""
    provides: frozenset[str]
    """What other parts may ask for: "q", "target_q", "v", "flow" …"""
    needs: frozenset[str]
    """What other parts of the run, or its environment ("goals"), must provide."""
    sets: Mapping[str, Any]
    """Config values that make the part what it is, as {"networks.critic_form": "bilinear"}."""
    source: str
    """Author, year, identifier."""

    @property
    def about(self) -> str:
        """The first line of its docstring."""
        return (self.make.__doc__ or "").strip().split("\n")[0]


_PARTS: dict[tuple[str, str], Part] = {}


class _Decorator(Protocol):
    def __call__(self, make: _F) -> _F: ...


def _declare(kind: str) -> Callable[..., _Decorator]:
    def declare(
        *,
        provides: Sequence[str] = (),
        needs: Sequence[str] = (),
        sets: Mapping[str, Any] = {},
        source: str = "",
    ) -> _Decorator:
        def register(make: _F) -> _F:
            name = getattr(make, "__name__", "")
            known = _PARTS.get((kind, name))
            if known and known.make.__module__ != make.__module__:
                raise ValueError(
                    f"{kind} {name!r} is declared in {known.make.__module__} and in {make.__module__}"
                )
            found = bounds.fields(make)
            part = Part(
                kind, name, make, found, frozenset(provides), frozenset(needs), sets, source
            )
            _PARTS[kind, name] = part
            return make

        return register

    return declare


policy, critic, sampler, rule = (_declare(kind) for kind in KINDS)


@functools.cache
def _load() -> None:
    """Imports all files of parts: those of this package, then those that other packages name."""
    for package in _PACKAGES:
        module = importlib.import_module(f"qgf_jax.methods.{package}")
        for found in pkgutil.iter_modules(module.__path__):
            importlib.import_module(f"{module.__name__}.{found.name}")
    for entry in importlib.metadata.entry_points(group=_GROUP):
        entry.load()


def part(kind: str, name: str) -> Part:
    """The part called `name`; `UserError` with the nearest one if there is none."""
    _load()
    if (kind, name) not in _PARTS:
        raise unknown_name_error(kind, name, [n for k, n in _PARTS if k == kind])
    return _PARTS[kind, name]


def parts(kind: str) -> dict[str, Part]:
    """All parts of a kind, by name."""
    _load()
    return {name: found for (k, name), found in _PARTS.items() if k == kind}
