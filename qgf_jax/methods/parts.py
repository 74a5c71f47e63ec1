"""Parts of methods: learners, samplers, guidance rules and what else one can choose, each in one file.

A part is a function with a decorator. Its name is the function's, without a leading underscore. Its
keyword-only arguments are its hyperparameters, with default, bounds and help; the decorator says what
it provides, what it needs, and whose it is:

    @critic(provides=("q", "target_q", "v"), source="Kostrikov et al., 2022, arXiv 2110.06169")
    def iql(nets, sample, *, expectile: Annotated[OpenFraction, "level of V's expectile"] = 0.9):
        ...

What each kind of function takes and returns stands in the package of its kind: `policies`,
`critics`, `samplers` (samplers, selectors) and `rules` (rules, units, schedules, endpoints, criteria).
Other packages name their modules in the entry-point group `qgf_jax.parts`; these may declare
methods too, by `qgf_jax.methods.table.row`. No JAX here, nor while the package's own parts are declared.
"""

import dataclasses
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from qgf_jax.bounds import Field, Words
from qgf_jax.errors import UserError
from qgf_jax.runtime.plugins import load_entry

KINDS = (
    "policy", "critic", "sampler", "selector", "rule", "unit", "schedule", "endpoint", "criterion",
)  # fmt: skip
_PACKAGES = ("policies", "critics", "samplers", "rules")
_ROWS = "qgf_jax.methods.rows"
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
        """Imports all files of parts and of methods: this package's, then those of other packages.

        Raises `UserError` if a module that another package names cannot be imported.
        """
        if _state["loaded"]:
            return
        _state["loaded"] = True  # a module that is being loaded may look at what is there by now
        try:
            for package in _PACKAGES:
                module = importlib.import_module(f"qgf_jax.methods.{package}")
                for found in pkgutil.iter_modules(module.__path__):
                    importlib.import_module(f"{module.__name__}.{found.name}")
            importlib.import_module(_ROWS)
            for entry in importlib.metadata.entry_points(group=_GROUP):
                load_entry(entry, "parts of methods")
        except BaseException:
            _state["loaded"] = False
            raise


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
_state = {"loaded": False}


class _Register(Protocol):
    """A decorator that keeps the function's type."""

    def __call__(self, make: _F) -> _F: ...


def _declare(kind: str) -> Callable[..., _Register]:
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


policy, critic, sampler, selector, rule, unit, schedule, endpoint, criterion = map(_declare, KINDS)

_TABLES = {f"{kind.upper()}S": kind for kind in KINDS} | {
    "POLICIES": "policy",
    "CRITERIA": "criterion",
}


def __getattr__(name: str) -> Any:
    """`RULES`, `CRITICS` and so on: name -> function of all parts of a kind, whoever adds them."""
    if name not in _TABLES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return {key: found.make for key, found in Part.all(_TABLES[name]).items()}
