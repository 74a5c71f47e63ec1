"""Networks whose layers have one shape, evaluated together: one batched product a layer.

A loss evaluates networks one by one, and each evaluation is a few operations a layer, which a device
that launches each operation feels. Here the losses of an update are traced once, the layers in them
are found (`layer_calls`), and layers of one shape that do not wait for one another are run as one.
Nobody who states a loss needs to know. A layer that finds no other of its shape runs by itself.

Narrower inputs and outputs are padded with zeros. Padded weights have no gradient, so they stay zero.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from qgf_jax.core.layers import Layer
from qgf_jax.training.layer_calls import LAYER, rows_of, together
from qgf_jax.types import Array

Leaf = tuple[str, int]
"""One array of parameters: its kind and its number among those.

Kinds are "learned", "slow" (target copies), "still", and "copy": a learned one where nothing
differentiates it, which lies beside the slow ones."""


class _Call(NamedTuple):
    """A layer of one network, or of the members of an ensemble, as a loss evaluates it."""

    equation: Any
    numbers: tuple[Any, ...]
    """The leaf that kernel, bias … are; `None`: they are computed."""

    @property
    def layer(self) -> Layer:
        """What it computes."""
        return self.equation.params["layer"]

    @property
    def size(self) -> int:
        """How many networks that are."""
        return self.equation.params["members"] or 1

    @property
    def kernel(self) -> tuple[int, int]:
        """[F, W] of one network."""
        return self.equation.invars[1].aval.shape[-2:]

    @property
    def kind(self) -> str:
        """ "learned", "slow" for all that is not differentiated, or "computed"."""
        kinds = {leaf[0] if leaf else "computed" for leaf in self.numbers}
        if kinds == {"learned"}:
            return "learned"
        return "computed" if kinds & {"learned", "computed"} else "slow"

    def alike(self) -> Any:
        """Equal for calls that can be one product."""
        fan_in, width = self.kernel
        layer, x = self.layer, self.equation.invars[0].aval
        rows = math.prod(x.shape[int(self.equation.params["own"]) : -1])
        if fan_in < width:
            fan_in = 0  # a first layer, whose input is padded
        elif width < fan_in and not (layer.layer_norm or layer.activation):
            width = 0  # a last one, whose output is
        if layer.activation:
            layer = layer._replace(layer_norm=False)  # those without one pass it by
        return self.kind, layer, rows, x.dtype, fan_in, width


class Group(NamedTuple):
    """Calls that are one product."""

    calls: tuple[_Call, ...]

    @property
    def layer(self) -> Layer:
        """What they compute, but for `normed`."""
        return self.calls[0].layer

    @property
    def fan_in(self) -> int:
        """F of the widest."""
        return max(call.kernel[0] for call in self.calls)

    @property
    def width(self) -> int:
        """W of the widest."""
        return max(call.kernel[1] for call in self.calls)

    @property
    def normed(self) -> list[bool]:
        """Which networks have a layer norm."""
        return [call.layer.layer_norm for call in self.calls for _ in range(call.size)]

    @property
    def numbers(self) -> int:
        """How many the layer has: kernel and bias, and with a layer norm its scale and bias."""
        return max(len(call.numbers) for call in self.calls)

    def starts(self) -> Iterator[tuple[int, _Call]]:
        """Each call, and its first network's place among all."""
        at = 0
        for call in self.calls:
            yield at, call
            at += call.size

    def whole(self, number: int, value: Callable[[_Call], Array]) -> Array:
        """Kernel (0) or another of the layer's numbers of all, [N, F, W] or [N, W].

        `value` gives those of a call; a network without a layer norm has zeros for its numbers.
        """
        shape = (self.fan_in, self.width) if number == 0 else (self.width,)

        def padded(call: _Call) -> Array:
            if number >= len(call.numbers):
                return jnp.zeros((call.size, *shape))
            mine = value(call)
            return _wide(mine.reshape(call.size, *mine.shape[-len(shape) :]), shape)

        return jnp.concatenate([padded(call) for call in self.calls])

    def stacked(self, read: Callable[[Any], Array]) -> list[Array]:
        """What the layer computes with, put together from `read` of each call's variables."""
        return [
            self.whole(k, lambda call: read(call.equation.invars[1 + k]))  # noqa: B023
            for k in range(self.numbers)
        ]

    def run(self, numbers: Sequence[Array], inputs: Sequence[Any]) -> "Iterator[tuple[Any, _Rows]]":
        """Each call's variable and what it becomes; `inputs` are `_Rows` or arrays of the calls."""
        x = _Rows.joined(inputs)
        if x is None or x.shape[-1] != self.fan_in:
            own = [call.equation.params for call in self.calls]
            parts = [
                rows_of(x.cut() if isinstance(x, _Rows) else x, how["members"], how["own"])
                for x, how in zip(inputs, own, strict=True)
            ]
            x = jnp.concatenate([_wide(part, (part.shape[1], self.fan_in)) for part in parts])
        result = together(self.layer, self.normed, x, *numbers)
        for at, call in self.starts():
            (out,) = call.equation.outvars
            yield out, _Rows(result, at, call.size, out.aval.shape)


def _wide(x: Array, shape: tuple[int, ...]) -> Array:
    """`x` [N, …] with zeros at the ends of its other axes, which makes them `shape`."""
    missing = [(0, wide - has) for wide, has in zip(shape, x.shape[1:], strict=True)]
    return jnp.pad(x, [(0, 0), *missing]) if any(map(any, missing)) else x


class _Rows(NamedTuple):
    """Some networks' part of what a group made, not yet cut out of it."""

    whole: Array
    """[N, M, W]"""
    start: int
    size: int
    shape: tuple[int, ...]
    """Of the part, as a loss knows it."""

    def cut(self) -> Array:
        """The part."""
        part = self.whole[self.start : self.start + self.size, :, : self.shape[-1]]
        return part.reshape(self.shape)

    @classmethod
    def joined(cls, parts: Sequence[Any]) -> Array | None:
        """The array of which `parts` are all, in order, if they are."""
        if not all(isinstance(part, _Rows) for part in parts):
            return None
        at, whole = 0, parts[0].whole
        for part in parts:
            if part.whole is not whole or part.start != at or part.shape[-1] != whole.shape[-1]:
                return None
            at += part.size
        return whole if at == len(whole) else None


class _Same(NamedTuple):
    """What another call has computed already."""

    out: Any
    of: Any


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced function of parameters, in the order in which it is run."""

    closed: Any
    """A closed jaxpr; its inputs are leaves, then all else."""
    leaves: Mapping[Any, Leaf]
    """By variable"""
    steps: tuple[Any, ...]
    """Equations, `Group`s and `_Same`s"""

    @classmethod
    def of(
        cls,
        closed: Any,
        leaves: Sequence[Leaf],
        twins: Mapping[Leaf, Leaf],
        periods: Mapping[Leaf, int],
    ) -> "Program":
        """`closed` takes the `leaves`, then all else. `twins`: the learned leaf of a slow one.

        `periods`: n of what is learned only in every n-th update. What is learned in one group of
        networks has one period.
        """
        by_var = dict(zip(closed.jaxpr.invars, leaves, strict=False))
        needed = _needed(closed.jaxpr)
        calls = _calls(needed, by_var)
        order = _Order.of(calls.values(), twins)
        learned = {var for var, leaf in by_var.items() if leaf[0] == "learned"}
        same = _computed_before(closed.jaxpr, needed, learned)
        calls = {key: call for key, call in calls.items() if key not in same}
        steps = tuple(_Schedule(closed.jaxpr, calls, same, order, periods).of(needed))
        return cls(closed, by_var, steps)

    @property
    def groups(self) -> list[Group]:
        """All of the groups."""
        return [step for step in self.steps if isinstance(step, Group)]

    def run(
        self,
        leaf: Callable[[Leaf], Array],
        numbers: Callable[[Group], Sequence[Array] | None],
        rest: Sequence[Any],
    ) -> list[Any]:
        """The outputs.

        `leaf` gives the value of a leaf, `numbers` those of a group, [N, F, W], [N, W] …, or `None` if
        they do not lie together; `rest` is all else that goes in.
        """
        jaxpr = self.closed.jaxpr
        env = dict(zip(jaxpr.invars[len(self.leaves) :], rest, strict=True))
        env |= zip(jaxpr.constvars, self.closed.consts, strict=True)

        def found(var: Any) -> Any:
            if isinstance(var, Literal):
                return var.val
            return env[var] if var in env else env.setdefault(var, leaf(self.leaves[var]))

        def read(var: Any) -> Any:
            value = found(var)
            return value.cut() if isinstance(value, _Rows) else value

        for step in self.steps:
            if isinstance(step, Group):
                inputs = [found(call.equation.invars[0]) for call in step.calls]
                env |= step.run(numbers(step) or step.stacked(read), inputs)
            elif isinstance(step, _Same):
                env[step.out] = jax.lax.stop_gradient(read(step.of))
            else:
                env |= _evaluated(step, read)
        return [read(var) for var in jaxpr.outvars]


def _evaluated(equation: Any, read: Callable[[Any], Any]) -> Iterator[tuple[Any, Any]]:
    """The variables of an equation, and their values."""
    with equation.ctx.manager:
        params = equation.primitive.get_bind_params(equation.params)
        results = equation.primitive.bind(*map(read, equation.invars), **params)
    many = equation.primitive.multiple_results
    return zip(equation.outvars, results if many else [results], strict=True)


def _stops(equation: Any) -> bool:
    return equation.primitive.name == "stop_gradient"


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that the outputs depend on, in order."""
    wanted, kept = set(_variables(jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not wanted.isdisjoint(equation.outvars):
            kept.append(equation)
            wanted.update(_variables(equation.invars))
    return kept[::-1]


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _calls(equations: Sequence[Any], leaves: Mapping[Any, Leaf]) -> dict[int, _Call]:
    """{id of an equation: the layer that it evaluates}."""
    origin, calls = dict(leaves), {}
    for equation in equations:
        if equation.primitive is LAYER:
            calls[id(equation)] = _Call(equation, tuple(map(origin.get, equation.invars[1:])))
        elif _stops(equation) and equation.invars[0] in origin:
            kind, i = origin[equation.invars[0]]
            origin[equation.outvars[0]] = ("copy" if kind == "learned" else kind, i)
    return calls


class _Order(NamedTuple):
    """Of the networks in a group: that of what is learned, those first that have a slow copy.

    So the copies are one block.
    """

    sources: Mapping[Leaf, Leaf]
    """The learned leaf of each slow one, and of each copy that is evaluated."""
    followed: Set[Leaf]

    @classmethod
    def of(cls, calls: Iterable[_Call], twins: Mapping[Leaf, Leaf]) -> "_Order":
        used = {leaf for call in calls for leaf in call.numbers}
        copies = {leaf: ("learned", leaf[1]) for leaf in used if leaf and leaf[0] == "copy"}
        sources = {**twins, **copies}
        return cls(sources, {*sources.values()})

    def place(self, call: _Call) -> Any:
        first = call.numbers[0] or ("computed", 0)
        leaf = self.sources.get(first, first)
        return leaf[0] == "still", leaf not in self.followed, leaf[1]


def _computed_before(jaxpr: Any, equations: Sequence[Any], learned: Set[Any]) -> dict[int, _Same]:
    """{id of a layer's equation: another that computes the same}, where it needs no gradient.

    As Q of the data's actions, learned by one loss and only read by another. What a compiler would see
    by itself, if both were not rows of larger products.
    """
    numbering, live = _Numbering(jaxpr), _differentiated(equations, learned)
    calls: dict[int, list[Any]] = collections.defaultdict(list)
    for equation in equations:
        numbers = numbering.add(equation)
        if equation.primitive is LAYER:
            calls[numbers[0]].append(equation)
    found = {}
    for alike in calls.values():
        first = next((e for e in alike if e.outvars[0] in live), alike[0])
        for e in alike:
            if e is not first and e.outvars[0] not in live:
                found[id(e)] = _Same(e.outvars[0], first.outvars[0])
    return found


def _differentiated(equations: Sequence[Any], learned: Set[Any]) -> set[Any]:
    """The variables that have a gradient by what is learned."""
    live = {*learned}
    for equation in equations:
        if not _stops(equation) and not live.isdisjoint(_variables(equation.invars)):
            live.update(equation.outvars)
    return live


class _Numbering:
    """A number for each variable, the same for those that are the same computation of the same."""

    def __init__(self, jaxpr: Any) -> None:
        given = [*jaxpr.invars, *jaxpr.constvars]
        self._numbers: dict[Any, int] = {var: i for i, var in enumerate(given)}
        self._fresh, self._known = itertools.count(len(given)), {}

    def add(self, equation: Any) -> Sequence[int]:
        """The numbers of what an equation computes, whose inputs are known."""
        inputs = [self._input(atom) for atom in equation.invars]
        numbers = inputs
        if not _stops(equation):
            fresh = [next(self._fresh) for _ in equation.outvars]
            numbers = self._known.setdefault(_computation(equation, inputs), fresh)
        self._numbers.update(zip(equation.outvars, numbers, strict=True))
        return numbers

    def _input(self, atom: Any) -> Any:
        if isinstance(atom, Literal):
            return "literal", str(atom.aval), str(atom.val)
        return self._numbers[atom]


def _computation(equation: Any, inputs: Sequence[Any]) -> Any:
    """Equal for equations that compute the same; one that cannot be compared is like no other."""
    try:
        key = equation.primitive, tuple(inputs), tuple(sorted(equation.params.items()))
        hash(key)
    except TypeError:
        return object()
    return key


@dataclasses.dataclass
class _Schedule:
    """Equations as early as they can be, and of the layers that are ready those of one shape at once."""

    jaxpr: Any
    calls: Mapping[int, _Call]
    """By the id of their equation, as `same`; without those"""
    same: Mapping[int, _Same]
    order: _Order
    periods: Mapping[Leaf, int]

    def of(self, equations: Sequence[Any]) -> Iterator[Any]:
        """The steps of these equations."""
        self.pending = {id(equation): equation for equation in equations}
        self.known = {*self.jaxpr.invars, *self.jaxpr.constvars}
        self.owned: set[Any] = set()
        while self.pending:
            yield from self._single()
            yield from self._layers()

    def _single(self) -> Iterator[Any]:
        """All that is ready, but for layers."""
        for key, equation in [*self.pending.items()]:
            if key not in self.calls and self._ready(equation):
                self._done(equation)
                yield self.same.get(key, equation)

    def _layers(self) -> Iterator[Group]:
        """The layers that are ready."""
        ready = [key for key, e in self.pending.items() if key in self.calls and self._ready(e)]
        for group in self._grouped([self.calls[key] for key in ready]):
            for call in group.calls:
                self._done(call.equation)
            yield group

    def _ready(self, equation: Any) -> bool:
        if same := self.same.get(id(equation)):
            return same.of in self.known
        return self.known.issuperset(_variables(equation.invars))

    def _done(self, equation: Any) -> None:
        del self.pending[id(equation)]
        self.known.update(equation.outvars)

    def _grouped(self, calls: Sequence[_Call]) -> Iterator[Group]:
        groups: dict[Any, list[_Call]] = collections.defaultdict(list)
        for call in calls:
            # What is learned lies in one place: a network's second evaluation is no part of its group.
            again = call.kind == "learned" and not self.owned.isdisjoint(call.numbers)
            self.owned.update(call.numbers)
            period = self.periods.get(call.numbers[0]) if call.kind == "learned" else None
            groups[again, period, call.alike()].append(call)
        for alike in groups.values():
            yield Group(tuple(sorted(alike, key=self.order.place)))
