"""Networks whose layers have one shape, evaluated together: one batched product a layer.

A loss evaluates networks one by one, and each evaluation is a few operations a layer, which a device
that launches each operation feels. Here the losses of an update are traced once, the layers in them
are found (`layer_calls`), and layers of one shape that do not wait for one another are run as one.
Nobody who states a loss needs to know. A layer that finds no other of its shape runs by itself.

Narrower inputs and outputs are padded with zeros. Padded weights have no gradient, so they stay zero.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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


class Call(NamedTuple):
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

    calls: tuple[Call, ...]

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

    def starts(self) -> Iterator[tuple[int, Call]]:
        """Each call, and its first network's place among all."""
        at = 0
        for call in self.calls:
            yield at, call
            at += call.size

    def whole(self, number: int, value: Callable[[Call], Array]) -> Array:
        """Kernel (0) or another of the layer's numbers of all, [N, F, W] or [N, W].

        `value` gives those of a call; a network without a layer norm has zeros for its numbers.
        """
        shape = (self.fan_in, self.width) if number == 0 else (self.width,)

        def padded(call: Call) -> Array:
            if number >= len(call.numbers):
                return jnp.zeros((call.size, *shape))
            mine = value(call)
            return _wide(mine.reshape(call.size, *mine.shape[-len(shape) :]), shape)

        return jnp.concatenate([padded(call) for call in self.calls])

    def run(self, numbers: Sequence[Array], inputs: Sequence[Any]) -> "Iterator[tuple[Any, Rows]]":
        """Each call's variable and what it becomes; `inputs` are `Rows` or arrays of the calls."""
        x = Rows.joined(inputs)
        if x is None or x.shape[-1] != self.fan_in:
            own = [call.equation.params for call in self.calls]
            parts = [
                rows_of(x.cut() if isinstance(x, Rows) else x, how["members"], how["own"])
                for x, how in zip(inputs, own, strict=True)
            ]
            x = jnp.concatenate([_wide(part, (part.shape[1], self.fan_in)) for part in parts])
        result = together(self.layer, self.normed, x, *numbers)
        for at, call in self.starts():
            (out,) = call.equation.outvars
            yield out, Rows(result, at, call.size, out.aval.shape)


def _wide(x: Array, shape: tuple[int, ...]) -> Array:
    """`x` [N, …] with zeros at the ends of its other axes, which makes them `shape`."""
    missing = [(0, wide - has) for wide, has in zip(shape, x.shape[1:], strict=True)]
    return jnp.pad(x, [(0, 0), *missing]) if any(map(any, missing)) else x


class Rows(NamedTuple):
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
        if not all(isinstance(part, Rows) for part in parts):
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
    def of(cls, closed: Any, leaves: Sequence[Leaf], twins: Mapping[Leaf, Leaf]) -> "Program":
        """`closed` takes the `leaves`, then all else. `twins`: the learned leaf of a slow one.

        In a group networks come in the order of what is learned, those first that have a slow copy, so
        that the copies are one block.
        """
        by_var = dict(zip(closed.jaxpr.invars, leaves, strict=False))
        needed = _needed(closed.jaxpr)
        origin: dict[Any, Leaf] = dict(by_var)
        for equation in needed:
            source = origin.get(equation.invars[0]) if _stops(equation) else None
            if source is not None:
                kind, i = source
                origin[equation.outvars[0]] = ("copy" if kind == "learned" else kind, i)
        calls = {
            id(e): Call(e, tuple(origin.get(v) for v in e.invars[1:]))
            for e in needed
            if e.primitive is LAYER
        }
        used = {leaf for call in calls.values() for leaf in call.numbers}
        followed = {
            *twins.values(),
            *(("learned", leaf[1]) for leaf in used if leaf and leaf[0] == "copy"),
        }

        def place(call: Call) -> Any:
            leaf = call.numbers[0] or ("computed", 0)
            leaf = ("learned", leaf[1]) if leaf[0] == "copy" else twins.get(leaf, leaf)
            return leaf[0] == "still", leaf not in followed, leaf[1]

        same = _computed_before(
            closed.jaxpr, needed, {v for v, x in by_var.items() if x[0] == "learned"}
        )
        steps = tuple(_Schedule(closed.jaxpr, calls, same, place).of(needed))
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
            return value.cut() if isinstance(value, Rows) else value

        def stacked(group: Group) -> list[Array]:
            return [
                group.whole(k, lambda call: read(call.equation.invars[1 + k]))  # noqa: B023
                for k in range(group.numbers)
            ]

        for step in self.steps:
            if isinstance(step, Group):
                inputs = [found(call.equation.invars[0]) for call in step.calls]
                env |= step.run(numbers(step) or stacked(step), inputs)
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


def _computed_before(jaxpr: Any, equations: Sequence[Any], learned: set[Any]) -> dict[int, Any]:
    """{id of a call: the variable of another that computes the same}, where it needs no gradient.

    As Q of the data's actions, learned by one loss and only read by another. What a compiler would see
    by itself, if both were not rows of larger products.
    """
    number: dict[Any, Any] = {v: i for i, v in enumerate([*jaxpr.invars, *jaxpr.constvars])}
    fresh, known, live = iter(range(len(number), 10**9)), {}, set(learned)
    calls: dict[Any, list[Any]] = collections.defaultdict(list)
    for equation in equations:
        inputs = [
            ("literal", str(v.aval), str(v.val)) if isinstance(v, Literal) else number[v]
            for v in equation.invars
        ]
        if _stops(equation):
            number[equation.outvars[0]] = inputs[0]
            continue
        if not live.isdisjoint(_variables(equation.invars)):
            live.update(equation.outvars)
        try:
            key = equation.primitive, tuple(inputs), tuple(sorted(equation.params.items()))
            hash(key)
        except TypeError:
            key = object()
        same = known.setdefault(key, [next(fresh) for _ in equation.outvars])
        number.update(zip(equation.outvars, same, strict=True))
        if equation.primitive is LAYER:
            calls[same[0]].append(equation)
    found = {}
    for alike in calls.values():
        first = next((e for e in alike if e.outvars[0] in live), alike[0])
        for e in alike:
            if e is not first and e.outvars[0] not in live:
                found[id(e)] = first.outvars[0]
    return found


@dataclasses.dataclass
class _Schedule:
    """Equations as early as they can be, and of the layers that are ready those of one shape at once."""

    jaxpr: Any
    calls: Mapping[int, Call]
    same: Mapping[int, Any]
    place: Callable[[Call], Any]

    def of(self, pending: list[Any]) -> Iterator[Any]:
        """The steps of `pending` equations."""
        self.known = {*self.jaxpr.invars, *self.jaxpr.constvars}
        self.owned: set[Any] = set()
        while pending:
            waiting = []
            for equation in pending:
                is_call = id(equation) in self.calls and id(equation) not in self.same
                if is_call or not self._ready(equation):
                    waiting.append(equation)
                    continue
                self.known.update(equation.outvars)
                of = self.same.get(id(equation))
                yield equation if of is None else _Same(equation.outvars[0], of)
            ready = {id(e) for e in waiting if id(e) not in self.same and self._ready(e)}
            for group in self._grouped([self.calls[id(e)] for e in waiting if id(e) in ready]):
                self.known.update(call.equation.outvars[0] for call in group.calls)
                yield group
            pending = [e for e in waiting if id(e) not in ready]

    def _ready(self, equation: Any) -> bool:
        if (of := self.same.get(id(equation))) is not None:
            return of in self.known
        return self.known.issuperset(_variables(equation.invars))

    def _grouped(self, calls: Sequence[Call]) -> Iterator[Group]:
        groups: dict[Any, list[Call]] = collections.defaultdict(list)
        for call in calls:
            # What is learned lies in one place: a network's second evaluation is no part of its group.
            again = call.kind == "learned" and not self.owned.isdisjoint(call.numbers)
            self.owned.update(call.numbers)
            groups[again, call.alike()].append(call)
        for alike in groups.values():
            yield Group(tuple(sorted(alike, key=self.place)))
