"""What a number or a word that a user can set may be. Each kind is declared where the default is.

A kind is a type for annotations, as in `expectile: OpenFraction = 0.9`. At run time it is `float`, and
beside that it holds a `Bound`, which checks a value, reads it from text, and says what it accepts.
No JAX here.
"""

import dataclasses
import inspect
import math
import numbers
import struct
from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from qgf_guide.errors import UserError

_Note = TypeVar("_Note")
_Default = TypeVar("_Default")


class Bound(Protocol):
    """A set of values."""

    @property
    def says(self) -> str:
        """What the set holds, to follow "it must be"."""
        ...

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of the set, by its type too."""
        ...

    def parse(self, text: str) -> Any:
        """The value that `text` writes, in the set or not. Raises `ValueError` if it writes none."""
        ...

    @property
    def is_real(self) -> bool:
        """Whether it is of numbers that need not be whole; a compiled program can be given those."""
        return False

    @staticmethod
    def of(annotation: Any) -> "Bound":
        """The bound of a kind, of `Literal[…]`, `bool` or `str`.

        Raises `LookupError` for any other type.
        """
        if get_origin(annotation) is Annotated:
            own = [
                note
                for note in _notes(annotation)
                if not isinstance(note, (str, MayChange, History))
            ]
            return own[0] if own else Bound.of(get_args(annotation)[0])
        if get_origin(annotation) is Literal:
            return Words(get_args(annotation))
        if annotation in (bool, str):
            return _PLAIN[annotation]
        raise LookupError(
            f"{annotation} says no bounds: annotate with a kind of qgf_guide/bounds.py"
        )

    def check(self, what: str, value: Any) -> None:
        """Raises `UserError` if `value` is not one of the set.

        `what` says whose it is: "config key seed".
        """
        if not self.holds(value):
            raise UserError(f"{what} is {_short(value)}{_as_single(value)}; it must be {self.says}")

    def read(self, what: str, text: str) -> Any:
        """The value that `text` writes. Raises `UserError` if it writes none, or one not of the set."""
        try:
            value = self.parse(text)
        except (ValueError, OverflowError):
            raise UserError(f"{what} is {_short(text)!r}; it must be {self.says}") from None
        self.check(what, value)
        return value


@dataclasses.dataclass(frozen=True)
class MayChange:
    """Marks a config key that a resumed run may change. Most are marked `MAY_CHANGE`."""

    generation: int = 0
    """The first generation of run folders in which the key was no part of a run's identity.

    A config.json of generation 0 has no "former_fingerprints", one of generation 1 has them. Generation
    2 is today's: its checkpoints are sealed without the keys that older ones counted.
    """
    per_host: bool = False
    """Whether processes that train one run together may each have a value of their own."""


MAY_CHANGE = MayChange()


@dataclasses.dataclass(frozen=True)
class History:
    """What older config files and run folders have for a key."""

    past: Any = None
    """The value that stands for the key where a run is older than the key. None: no run is."""
    key: str = ""
    """The name that the key had, as "data.backup"."""
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Today's words, by the words that they replace."""


class Field(NamedTuple):
    """One value that a user can set."""

    default: Any
    bound: Bound
    help: str = ""
    """One clause: what the value is, with its unit."""
    may_change: MayChange | None = None
    """None: a resumed run keeps the value."""
    history: History = History()

    @staticmethod
    def declared_in(declaration: Any) -> "dict[str, Field]":
        """What a user can set: the fields of a dataclass, or a function's keyword-only arguments.

        Annotations are kinds of this module, with help:
        `expectile: Annotated[OpenFraction, "level of V"]`.
        `MAY_CHANGE` marks what a resumed run may change, `History` what older runs have. Raises
        `LookupError` for an annotation without bounds.
        """
        if dataclasses.is_dataclass(declaration):
            triples = [(f.name, f.type, f.default) for f in dataclasses.fields(declaration)]
        else:
            parameters = inspect.signature(declaration).parameters.values()
            own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
            types = _annotations(declaration, {p.name: p.annotation for p in own})
            triples = [(p.name, types[p.name], p.default) for p in own]
        return {name: _field(name, annotation, default) for name, annotation, default in triples}


@dataclasses.dataclass(frozen=True)
class _Interval(Bound):
    """Numbers between two ends. They must lie there as float32 too, since that is what computes."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is left out."""
    below: bool = False
    """Whether `high` itself is left out."""
    whole: bool = False

    @property
    def says(self) -> str:
        """ "a number above 0 and at most 1" """
        infinite = not all(map(math.isfinite, (self.low, self.high)))
        noun = "whole " * self.whole or "finite " * infinite
        if not (infinite or self.above or self.below):
            return f"a {noun}number from {self.low} to {self.high}"
        low = ("above {}" if self.above else "of at least {}").format(self.low)
        high = ("below {}" if self.below else "at most {}").format(self.high)
        ends = [low] * math.isfinite(self.low) + [high] * math.isfinite(self.high)
        return f"a {noun}number {' and '.join(ends)}".rstrip()

    @property
    def is_real(self) -> bool:
        """Unless it is of whole numbers."""
        return not self.whole

    def holds(self, value: Any) -> bool:
        """Whether `value` is a number between the ends; True and False are none."""
        kind = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        if self.whole:
            return self._between(value)
        single = _single(value)
        return math.isfinite(single) and self._between(value) and self._between(single)

    def _between(self, value: Any) -> bool:
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under

    def parse(self, text: str) -> float:
        """Whole numbers may be written 1e6 too."""
        try:
            return int(text) if self.whole else float(text)
        except ValueError:
            number = float(text)  # "1e6"; or not whole, which `holds` sees
            return int(number) if number.is_integer() else number


@dataclasses.dataclass(frozen=True)
class _Entries(Bound):
    """Tuples whose entries are `each` of one bound."""

    each: _Interval
    least: int = 1

    @property
    def says(self) -> str:
        """ "one or more numbers, each …" """
        return f"{'one or more' if self.least else 'any'} numbers, each {self.each.says}"

    def holds(self, value: Any) -> bool:
        """Whether `value` is a long enough tuple of such numbers; a list stands for a tuple."""
        if not isinstance(value, (tuple, list)) or len(value) < self.least:
            return False
        return all(self.each.holds(entry) for entry in value)

    def parse(self, text: str) -> tuple[float, ...]:
        """ "1,3", "(1, 3)" or "[1, 3]"; one number alone is a tuple too."""
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1]
        *words, last = inner.split(",")
        return tuple(self.each.parse(word) for word in [*words, *([last] if last.strip() else [])])


@dataclasses.dataclass(frozen=True)
class _Chances(_Entries):
    """Three probabilities of a goal, or, if `least` is 0, nothing."""

    @property
    def says(self) -> str:
        """What each of the three is of."""
        return (
            "three probabilities that sum to 1: of the current row, of a later one of its "
            "trajectory, of any"
        )

    def holds(self, value: Any) -> bool:
        """Whether they sum to 1."""
        if not _Entries.holds(self, value):
            return False
        return not value or (len(value) == 3 and abs(sum(value) - 1) < 1e-6)

    def parse(self, text: str) -> tuple[float, ...]:
        """Where nothing is the default, whole numbers stay so: fingerprints of old runs have them."""
        values = _Entries.parse(self, text)
        if self.least:
            return values
        return tuple(int(x) if x in (0, 1) and "." not in text else x for x in values)


@dataclasses.dataclass(frozen=True)
class Words(Bound):
    """One of some words."""

    words: tuple[str, ...]

    @property
    def says(self) -> str:
        """All of them."""
        return f"one of {', '.join(self.words)}"

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of them."""
        return isinstance(value, str) and value in self.words

    def parse(self, text: str) -> str:
        """The word itself."""
        return text

    def check(self, what: str, value: Any) -> None:
        """As of any bound; the message gives the nearest word, or all of them."""
        if not self.holds(value):
            near = UserError.nearest(_short(value), self.words)
            raise UserError(f"{what} is {_short(value)!r}: {near}")


@dataclasses.dataclass(frozen=True)
class Lists(Words):
    """One of some words, or several, all different: "a,b"."""

    def holds(self, value: Any) -> bool:
        """Whether `value` is such a list."""
        if not isinstance(value, str):
            return False
        given = value.split(",")
        return len({*given}) == len(given) and all(word in self.words for word in given)

    def check(self, what: str, value: Any) -> None:
        """As of words; the message is about the word that is none of them."""
        if self.holds(value):
            return
        given = _short(value).split(",")
        wrong = next((word for word in given if word not in self.words), None)
        if wrong is None:
            raise UserError(f"{what} is {_short(value)!r}: name each once")
        raise UserError(f"{what} is {wrong!r}: {UserError.nearest(wrong, self.words)}")


@dataclasses.dataclass(frozen=True)
class _Text(Bound):
    """Any text, or, with a `least`, "all" or a whole number of at least that."""

    least: int | None = None

    @property
    def says(self) -> str:
        """What the text may be."""
        return "a text" if self.least is None else f"all or a whole number of at least {self.least}"

    def holds(self, value: Any) -> bool:
        """Whether `value` is such a text."""
        if not isinstance(value, str) or self.least is None or value == "all":
            return isinstance(value, str)
        return value.isdecimal() and len(value) < 10 and int(value) >= self.least

    def parse(self, text: str) -> str:
        """The text itself."""
        return text


@dataclasses.dataclass(frozen=True)
class _Switch(Bound):
    """True or False."""

    @property
    def says(self) -> str:
        """Both."""
        return "true or false"

    def holds(self, value: Any) -> bool:
        """Whether `value` is either."""
        return isinstance(value, bool)

    def parse(self, text: str) -> bool:
        """Of true, false, 1 and 0, in any case."""
        try:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        except KeyError:
            raise ValueError(text) from None


_LARGEST = 2**31 - 1  # of an int32, as steps and indices are
MOST_EPISODES = 500_000
"""Of a split: their seeds are distinct below a million episodes, see `evaluate.episode_seed`."""

_INDEX = _Interval(0, _LARGEST, whole=True)
_COUNT = _Interval(1, _LARGEST, whole=True)
_FINITE = _Interval()
_FRACTION = _Interval(0, 1)

Finite = Annotated[float, _FINITE]
Positive = Annotated[float, _Interval(0, above=True)]
NonNegative = Annotated[float, _Interval(0)]
OpenFraction = Annotated[float, _Interval(0, 1, above=True, below=True)]
"""(0, 1)"""
Fraction = Annotated[float, _FRACTION]
"""[0, 1]"""
Share = Annotated[float, _Interval(0, 1, above=True)]
"""(0, 1]"""
Margin = Annotated[float, _Interval(0, 1, below=True)]
"""[0, 1)"""
Count = Annotated[int, _COUNT]
"""At least 1."""
Index = Annotated[int, _INDEX]
"""At least 0; where 0 stands for something else, its comment says for what."""
Episodes = Annotated[int, _Interval(1, MOST_EPISODES, whole=True)]
EpisodesIfAny = Annotated[int, _Interval(0, MOST_EPISODES, whole=True)]
Seed = Annotated[int, _Interval(0, 2**32 - 1, whole=True)]
"""What a random key is made of: larger seeds would repeat smaller ones."""
Counts = Annotated[tuple[int, ...], _Entries(_COUNT)]
"""Not empty: widths of layers, numbers of candidates."""
Weights = Annotated[tuple[float, ...], _Entries(_FINITE)]
"""Not empty; the sign is free, as guidance may be turned round."""
Goals = Annotated[tuple[float, ...], _Chances(_FRACTION)]
OptionalGoals = Annotated[tuple[float, ...], _Chances(_FRACTION, least=0)]
Devices = Annotated[str, _Text(least=1)]


_PLAIN: dict[Any, Bound] = {bool: _Switch(), str: _Text()}


def _annotations(function: Any, own: dict[str, Any]) -> dict[str, Any]:
    """Some annotations of a function, which are texts after `from __future__ import annotations`.

    Others of the function may name what is imported for type checkers alone.
    """

    def with_own() -> None: ...

    with_own.__annotations__ = own
    return get_type_hints(with_own, globalns=function.__globals__, include_extras=True)


def _field(name: str, annotation: Any, default: Any) -> Field:
    def note(kind: type[_Note], otherwise: _Default) -> _Note | _Default:
        return next((x for x in _notes(annotation) if isinstance(x, kind)), otherwise)

    words, history = note(str, ""), note(History, History())
    try:
        bound = Bound.of(annotation)
    except LookupError as error:
        raise LookupError(f"option {name}: {error.args[0]}") from None
    return Field(default, bound, words, note(MayChange, None), history)


def _notes(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def _short(value: Any) -> str:
    """A value in a message. Python refuses to write out the longest whole numbers."""
    try:
        text = str(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:50]}… ({len(text)} characters)"


def _single(value: Any) -> float:
    """What float32 makes of a number; not a number if it holds none so large."""
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except (OverflowError, struct.error):  # the latter for a whole number of hundreds of digits
        return math.nan


def _as_single(value: Any) -> str:
    """What float32 makes of a number that is as good as another."""
    if not isinstance(value, float) or not math.isfinite(value) or abs(value) > 3e38:
        return ""
    single = _single(value)
    return f" ({single} in float32)" * (single != value and single in (0.0, 1.0))
