"""JAX's primitives as nodes of ONNX: (graph, equation, wires …) -> the wires of results."""

import string
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from qgf_jax.errors import UserError
from qgf_jax.interop.export.onnx_nodes import Graph, Wire

Translate = Callable[..., Wire | list[Wire]]
_Made = TypeVar("_Made", bound=Translate)

TABLE: dict[str, Translate] = {}
"""By the name of the primitive."""


def _same(kind: str) -> Translate:
    """A primitive that is one node of the same inputs."""
    return lambda graph, equation, *given: graph.add(kind, *given)


TABLE |= {
    name: _same(kind)
    for name, kind in {
        "abs": "Abs", "add": "Add", "add_any": "Add", "and": "And", "ceil": "Ceil", "copy": "Identity",
        "copy_p": "Identity", "cos": "Cos", "div": "Div", "eq": "Equal", "erf": "Erf", "exp": "Exp",
        "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "log": "Log",
        "logistic": "Sigmoid", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg",
        "not": "Not", "or": "Or", "pow": "Pow", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt",
        "stop_gradient": "Identity", "sub": "Sub", "tanh": "Tanh",
    }.items()
}  # fmt: skip


def _translates(*names: str) -> Callable[[_Made], _Made]:
    def add(translate: _Made) -> _Made:
        TABLE.update(dict.fromkeys(names, translate))
        return translate

    return add


def _out(equation: Any) -> Any:
    return equation.outvars[0].aval


def _one(equation: Any) -> np.ndarray:
    return np.ones((), _out(equation).dtype)


@_translates("ne")
def _differs(graph: Graph, equation: Any, a: Wire, b: Wire) -> Wire:
    return graph.add("Not", graph.add("Equal", a, b))


@_translates("reduce_precision")
def _reduce_precision(graph: Graph, equation: Any, x: Wire) -> Wire:
    """What JAX puts around numbers that it computes again, to keep all of their bits."""
    if np.finfo(_out(equation).dtype).nmant > equation.params["mantissa_bits"]:
        raise UserError("--to=onnx does not know how to round numbers: use --to=jax.export")
    return graph.add("Identity", x)


@_translates("square")
def _square(graph: Graph, equation: Any, x: Wire) -> Wire:
    return graph.add("Mul", x, x)


@_translates("one_minus_square")
def _one_minus_square(graph: Graph, equation: Any, x: Wire) -> Wire:
    """What a slope of tanh is from JAX 0.12 on."""
    return graph.add("Sub", _one(equation), graph.add("Mul", x, x))


@_translates("integer_pow")
def _integer_pow(graph: Graph, equation: Any, x: Wire) -> Wire:
    return graph.add("Pow", x, _one(equation) * equation.params["y"])


@_translates("rsqrt")
def _rsqrt(graph: Graph, equation: Any, x: Wire) -> Wire:
    return graph.add("Reciprocal", graph.add("Sqrt", x))


@_translates("log1p")
def _log1p(graph: Graph, equation: Any, x: Wire) -> Wire:
    return graph.add("Log", graph.add("Add", x, _one(equation)))


@_translates("clamp")
def _clamp(graph: Graph, equation: Any, low: Wire, x: Wire, high: Wire) -> Wire:
    return graph.add("Min", graph.add("Max", x, low), high)


@_translates("select_n")
def _select(graph: Graph, equation: Any, which: Wire, off: Wire, on: Wire) -> Wire:
    return graph.add("Where", which, on, off)


@_translates("convert_element_type")
def _cast(graph: Graph, equation: Any, x: Wire) -> Wire:
    from onnx import helper

    return graph.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(_out(equation).dtype)))


@_translates("reshape", "squeeze", "expand_dims")
def _reshape(graph: Graph, equation: Any, x: Wire) -> Wire:
    return graph.add("Reshape", x, graph.shape(_out(equation).shape))


@_translates("broadcast_in_dim")
def _broadcast(graph: Graph, equation: Any, x: Wire, *_: Wire) -> Wire:
    old, new = equation.invars[0].aval.shape, _out(equation).shape
    sizes: list[Any] = [1] * len(new)
    for size, axis in zip(old, equation.params["broadcast_dimensions"], strict=True):
        sizes[int(axis)] = size
    wide = graph.add("Reshape", x, graph.shape(sizes)) if len(old) < len(new) else x
    return wide if sizes == [*new] else graph.add("Expand", wide, graph.shape(new))


@_translates("transpose")
def _transpose(graph: Graph, equation: Any, x: Wire) -> Wire:
    return graph.add("Transpose", x, perm=[int(k) for k in equation.params["permutation"]])


@_translates("concatenate")
def _concatenate(graph: Graph, equation: Any, *given: Wire) -> Wire:
    return graph.add("Concat", *given, axis=int(equation.params["dimension"]))


@_translates("slice")
def _slice(graph: Graph, equation: Any, x: Wire) -> Wire:
    settings, sizes = equation.params, equation.invars[0].aval.shape
    steps = settings["strides"] or (1,) * len(sizes)
    cuts = [*zip(settings["start_indices"], settings["limit_indices"], range(len(sizes)), steps)]
    cuts = [cut for cut, size in zip(cuts, sizes, strict=True) if cut[:2] != (0, size)]
    return graph.add("Slice", x, *np.array(cuts, np.int64).reshape(-1, 4).T)


@_translates("split")
def _split(graph: Graph, equation: Any, x: Wire) -> list[Wire]:
    sizes, axis = equation.params["sizes"], np.array([equation.params["axis"]], np.int64)
    ends = np.cumsum(sizes)
    cuts = zip(ends - sizes, ends, strict=True)
    return [graph.add("Slice", x, *(np.array([k], np.int64) for k in cut), axis) for cut in cuts]


def _reduction(kind: str) -> Translate:
    def reduce(graph: Graph, equation: Any, x: Wire) -> Wire:
        return graph.add(kind, x, np.array(equation.params["axes"], np.int64), keepdims=0)

    return reduce


for _name in ("sum", "max", "min", "prod"):
    TABLE[f"reduce_{_name}"] = _reduction(f"Reduce{_name.capitalize()}")


@_translates("argmax", "argmin")
def _extreme(graph: Graph, equation: Any, x: Wire) -> Wire:
    (axis,) = equation.params["axes"]
    kind = {"argmax": "ArgMax", "argmin": "ArgMin"}[equation.primitive.name]
    return _cast(graph, equation, graph.add(kind, x, axis=int(axis), keepdims=0))


@_translates("dot_general")
def _dot(graph: Graph, equation: Any, a: Wire, b: Wire) -> Wire:
    """By Einsum, or a plain matrix product where it is one."""
    ranks = [x.aval.ndim for x in equation.invars]
    (inner, (batch, _)) = equation.params["dimension_numbers"]
    if (*map(tuple, inner), ranks[1], len(batch)) == ((ranks[0] - 1,), (0,), 2, 0):
        return graph.add("MatMul", a, b)
    return graph.add("Einsum", a, b, equation=_einsum(*ranks, equation.params["dimension_numbers"]))


def _einsum(rank_a: int, rank_b: int, axes: Any) -> str:
    """ "abc,adc->abd" of ranks 3 and 3, the inner axes 2 and 2 and the batch's 0 and 0."""
    ((inner_a, inner_b), (batch_a, batch_b)) = axes
    letters = iter(string.ascii_lowercase)
    of_a = [next(letters) for _ in range(rank_a)]
    of_b = [next(letters) for _ in range(rank_b)]
    for i, k in zip((*inner_a, *batch_a), (*inner_b, *batch_b), strict=True):
        of_b[k] = of_a[i]
    kept = [x for k, x in enumerate(of_a) if k not in (*inner_a, *batch_a)]
    kept += [x for k, x in enumerate(of_b) if k not in (*inner_b, *batch_b)]
    out = [*(of_a[k] for k in batch_a), *kept]
    return f"{''.join(of_a)},{''.join(of_b)}->{''.join(out)}"


@_translates("gather")
def _gather(graph: Graph, equation: Any, x: Wire, index: Wire) -> Wire:
    """One row for each example of the batch, as the best of several candidates is.

    `x` is [B, N, …], `index` [B, I]; indices of axes that are taken whole say nothing.
    """
    settings, sizes = equation.params, equation.invars[0].aval.shape
    numbers, taken = settings["dimension_numbers"], settings["slice_sizes"]
    axes = [int(axis) for axis in numbers.start_index_map]
    by_example = numbers.operand_batching_dims == numbers.start_indices_batching_dims == (0,)
    is_row = by_example and taken[1] == 1 and tuple(taken[2:]) == sizes[2:] and 1 in axes
    if not is_row or equation.invars[1].aval.ndim != 2:
        raise UserError("--to=onnx does not know how an action is looked up: use --to=jax.export")
    column = [np.array([k], np.int64) for k in (axes.index(1), axes.index(1) + 1, 1)]
    row = graph.add("Cast", graph.add("Slice", index, *column), to=7)  # int64
    return _reshape(graph, equation, graph.add("GatherND", x, row, batch_dims=1))
