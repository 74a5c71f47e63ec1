"""The arms of a sweep: what is compared with what. No JAX."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qgf_jax.methods import table

_MATCHED = 4
"""Candidates of best-of-N that take as much arithmetic as guidance."""


class Sampler(NamedTuple):
    """An arm without its weight: rivals, of which one weight is selected, agree in it."""

    method: str
    best_of: int
    options: table.Options

    @property
    def label(self) -> str:
        """How a table writes it: with its options, and with its N where that is not 1."""
        method = ":".join([self.method, *(f"{k}={v}" for k, v in self.options)])
        if self.best_of == 1 or method == "ifql":
            return method
        name = "" if method == "best_of" else f"{method} + "
        return f"{name}best of {self.best_of}"

    def rank_as_baseline(self, wanted: str | None) -> tuple[Any, ...] | None:
        """The order in which arms are taken as the baseline; `None` for those that are none.

        `wanted`: its label, in which N may be left out. Else best-of-4, or else the reference.
        """
        near = (self.best_of != _MATCHED, self.best_of)
        if wanted:
            if self.label == wanted:
                return (0, *near)
            return (1, *near) if self._replace(best_of=1).label == wanted else None
        order = {"best_of": 0, "reference": 1}.get(self.method)
        return None if order is None else (order, bool(self.options), *near)


class Program(NamedTuple):
    """What is compiled once for all arms that differ in weight and numbers alone."""

    method: str
    best_of: int
    options: table.Options
    """Those that are part of the program."""
    arguments: tuple[str, ...] = ()
    """The names of those whose values it is given, beside the weight."""

    @property
    def label(self) -> str:
        """As of a sampler; of what it is given, the names."""
        return ":".join([Sampler(self.method, self.best_of, self.options).label, *self.arguments])


class Arm(NamedTuple):
    """A method with its options and number of candidates, under one guidance weight."""

    method: str
    weight: float
    best_of: int
    options: table.Options = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Arm":
        """The arm of a line of episodes.jsonl, or of a row of a table."""
        options = tuple(sorted(row["options"].items()))
        return cls(row["method"], row["weight"], row["best_of"], options)

    @classmethod
    def sweep(
        cls,
        methods: Sequence[str],
        weights: Sequence[float],
        best_of: Sequence[int] | None = None,
        *,
        own_weights: bool = False,
        more: Sequence[int] = (),
    ) -> list["Arm"]:
        """All arms of a sweep; a method is written NAME or NAME:option=value, see `table.parse`.

        A method without a weight ignores `weights`. With `own_weights`, a method whose weight has units
        of its own is swept over its own values. `best_of` replaces the methods' own numbers of
        candidates, except where the number is the method; a method that chooses among several leaves a
        1 out. Without `best_of` such a method has the numbers `more` too. Raises `UserError` for an
        unknown method.
        """
        found: dict[Arm, None] = {}
        for text in methods:
            name, options = table.Method.parse(text)
            row = table.Method.named(name)
            values = row.weights if own_weights and row.weights else weights
            candidates = _candidates(row, best_of, more)
            row.check_idle(options, max(candidates))
            for n in candidates:
                for weight in values if row.weighted else (0.0,):
                    found[cls(name, float(weight), n, options)] = None
        return list(found)

    @property
    def sampler(self) -> Sampler:
        """Arms that agree in it are rivals, of which one is selected."""
        return Sampler(self.method, self.best_of, self.options)

    @property
    def label(self) -> str:
        """As of its sampler, with its weight if it has one."""
        return self.sampler.label + (f", weight {self.weight:g}" if self.weight else "")

    @property
    def acts_as(self) -> "Arm":
        """The cheapest arm with the same actions: at weight 0 no critic gradient is needed."""
        arm, row = self, table.Method.named(self.method)
        if row.weighted and arm.weight == 0.0 and row.at_zero:
            free = table.Method.named(row.at_zero).acting_options
            free |= row.critic_options | row.selector_options
            shared = tuple((k, v) for k, v in arm.options if k in free)
            arm = Arm(row.at_zero, 0.0, arm.best_of, shared)
        acting = table.Method.named(arm.method)
        return arm._replace(
            method=acting.canonical, options=acting.without_idle(arm.options, arm.best_of)
        )

    @property
    def program(self) -> Program:
        """What it acts with; arms that agree in it act in one batch."""
        given = table.Method.named(self.method).arguments(self.options)
        fixed = tuple((k, v) for k, v in self.options if k not in given)
        return Program(self.method, self.best_of, fixed, given)

    @property
    def numbers(self) -> tuple[float, ...]:
        """The values of the program's `arguments`."""
        given = table.Method.named(self.method).arguments(self.options)
        return tuple(float(v) for k, v in self.options if k in given)


def _candidates(
    row: table.Method, best_of: Sequence[int] | None, more: Sequence[int]
) -> tuple[int, ...]:
    """The numbers of candidates that a method is swept over."""
    if row.fixed_best_of:
        return row.best_of
    if row.best_of[0] == 1:
        return row.best_of if best_of is None else tuple(best_of)
    given = (*row.best_of, *more) if best_of is None else best_of
    return tuple(n for n in given if n > 1) or row.best_of
