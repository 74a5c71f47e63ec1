"""Parts: guidance rules, units, schedules and what else one can choose by name, each in one file.

A part is a function with a decorator. Its name is the function's, without a leading underscore. Its
keyword-only arguments are its hyperparameters, with default, bounds and help; the decorator says what
it provides, what it needs, and whose it is:

    @rule(needs=("q",), source="Zhou et al., 2026, arXiv 2606.11087, Eq. 10")
    def regularized(velocity, q, endpoint, *, epsilon: Annotated[NonNegative, "factor of J"] = 0.1):
        ...

What each kind of function takes and returns stands in the package of its kind, here `rules`. Packages
with parts of their own name a loader by `load_with`. No JAX here, nor while parts are declared.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from qgf_guide.bounds import Field, Words
from qgf_guide.errors import UserError

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Part:
    """A declared part."""

    kind: str
    """Such as "rule"."""
    name: str
    make: Callable[..., Any]
    """The function that was declared."""
    fields: Mapping[str, Field]
    """Its hyperparameters."""
    provides: frozenset[str] = frozenset()
    """What other parts may ask for. Critics: "q", "target_q" (has a target copy), "returns" (Q is a
    return, in units of reward), "v" (in the units of Q), "goal_v". Policies: "flow", "actor_flow", …"""
    needs: frozenset[str] = frozenset()
    """What other parts, the environment ("goals") or the run ("calibration", "weights",
    "evaluation") must provide."""
    ignores: frozenset[str] = frozenset()
    """Options of the part that uses it, or "weight", which change nothing beside this part."""
    sets: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Config values that make the part what it is, as {"networks.critic_form": "bilinear"}."""
    source: str = ""
    """Author, year, identifier."""

    @property
    def about(self) -> str:
        """The first line of its docstring."""
        return (self.make.__doc__ or "").strip().split("\n")[0]

    @staticmethod
    def named(kind: str, name: str) -> "Part":
        """The part called `name`; `UserError` with the nearest one if there is none."""
        Part.load()
        if not isinstance(name, str):
            raise UserError(f"{kind} is {name!r}: give one of {', '.join(Part.all(kind))}")
        if (kind, name) not in _PARTS:
            raise UserError.unknown(kind, name, Part.all(kind))
        return _PARTS[kind, name]

    @staticmethod
    def all(kind: str) -> dict[str, "Part"]:
        """All parts of a kind, by name."""
        Part.load()
        return {name: found for (k, name), found in _PARTS.items() if k == kind}

    @staticmethod
    def load() -> None:
        """Calls each loader that has not been called: after it all parts of its package are declared."""
        while _waiting:
            load = _waiting.pop()  # a module that is being loaded may look at what is there by now
            try:
                load()
            except BaseException:
                _waiting.append(load)
                raise


def load_with(load: Callable[[], None]) -> None:
    """Adds a loader of another package's parts, which is called when parts are first asked for."""
    _waiting.append(load)


def import_all(package: str) -> None:
    """Imports every module of `package`, which declares parts, as "qgf_guide.rules"."""
    module = importlib.import_module(package)
    for found in pkgutil.iter_modules(module.__path__):
        importlib.import_module(f"{package}.{found.name}")


class Names(Words):
    """The bound of an option that names a part of one kind; parts of other packages count too."""

    def __init__(self, kind: str):
        object.__setattr__(self, "kind", kind)

    kind: str

    @property
    def words(self) -> tuple[str, ...]:
        """All names of the kind."""
        return tuple(Part.all(self.kind))


_PARTS: dict[tuple[str, str], Part] = {}
_waiting: list[Callable[[], None]] = [functools.partial(import_all, "qgf_guide.rules")]


class _Register(Protocol):
    """A decorator that keeps the function's type."""

    def __call__(self, make: _F) -> _F: ...


def declare_kind(kind: str) -> Callable[..., _Register]:
    """The decorator that declares parts of a kind."""

    def declare(
        *,
        provides: Sequence[str] = (),
        needs: Sequence[str] = (),
        ignores: Sequence[str] = (),
        sets: Mapping[str, Any] = {},
        source: str = "",
    ) -> _Register:
        said = [frozenset(words) for words in (provides, needs, ignores)]

        def register(make: _F) -> _F:
            name = getattr(make, "__name__", "").lstrip("_")
            known = _PARTS.get((kind, name))
            if known and known.make.__module__ != make.__module__:
                raise ValueError(
                    f"{kind} {name!r} is declared in {known.make.__module__} and in {make.__module__}"
                )
            fields = Field.declared_in(make)
            _check_defaults(f"{kind} {name!r}", fields)
            _PARTS[kind, name] = Part(kind, name, make, fields, *said, sets, source)
            return make

        return register

    return declare


def _check_defaults(what: str, fields: Mapping[str, Field]) -> None:
    """Raises `ValueError` for an option without a default, or with one that is out of its bounds."""
    for option, field in fields.items():
        # Which names there are is known when all parts have been declared.
        if not isinstance(field.bound, Names) and not field.bound.holds(field.default):
            raise ValueError(
                f"{what}: option {option} needs a default, and that must be {field.bound.says}"
            )


rule, unit, schedule = map(declare_kind, ("rule", "unit", "schedule"))
