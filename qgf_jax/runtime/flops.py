"""Floating-point operations of a compiled program, counted in the program itself.

XLA's own count takes the body of a loop once, however often it runs; here it counts as often.
"""

import math
import re
from typing import Any

_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"^\(?\w+\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_TURNS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_KIND = re.compile(r"(?:^|[\s)\]}])([a-z][a-z0-9\-]*)\(")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
"""Lines of a program that start nothing."""
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


def count(compiled: Any) -> float:
    """Operations of all matrix products of a `jax.stages.Compiled`; 2 for a multiply and an add.

    Products with one column count nothing: on a CPU sums are such (`reductions.fast_sum`). Loops count
    once for each turn, and the branches of a conditional their mean. What is not a matrix product,
    such as activations or an SVD, counts nothing. Raises `ValueError` for a loop whose number of
    turns XLA does not know.
    """
    computations, entry = _parse(compiled.as_text())
    known: dict[str, float] = {}

    def total(name: str) -> float:
        if name not in known:
            shapes, lines = computations[name]
            known[name] = sum(_line(text, shapes, total) for text in lines)
        return known[name]

    return total(entry)


def launches(compiled: Any) -> float:
    """How many operations a `jax.stages.Compiled` starts one after the other: its kernels.

    Fusions, products, calls of libraries and whatever else is no rearrangement of buffers, in the
    program and in the bodies of its loops, as often as these turn. What a fusion holds is one kernel; of
    a conditional the mean over its branches counts. Raises `ValueError` as `count` does.
    """
    computations, entry = _parse(compiled.as_text())

    def total(name: str) -> float:
        return sum(launched(text) for text in computations[name][1])

    def launched(text: str) -> float:
        if branches := _BRANCHES.search(text):
            names = [name.strip().lstrip("%") for name in branches[1].split(",")]
            return sum(map(total, names)) / len(names)
        called, kind = _CALLED.findall(text), _KIND.search(text)
        if kind is None or kind[1] in _FREE:
            return 0.0
        if kind[1] == "while":
            turns = _TURNS.search(text)
            if not turns:
                raise ValueError("a loop with an unknown number of turns")
            return int(turns[1]) * sum(map(total, called))
        if kind[1] == "conditional":
            return sum(map(total, called)) / len(called)
        return sum(map(total, called)) if kind[1] == "call" else 1.0

    return total(entry)


def _parse(text: str) -> tuple[dict[str, tuple[dict[str, str], list[str]]], str]:
    """Computations by name, each the shapes of its values and its lines, and the entry's name."""
    computations: dict[str, tuple[dict[str, str], list[str]]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name = header[1]
            computations[name] = ({}, [])
            entry = name if line.startswith("ENTRY") else entry
        elif name and (found := _LINE.match(line)):
            shape = _SHAPE.match(found[2])
            computations[name][0][found[1]] = shape[1] if shape else ""
            computations[name][1].append(found[2])
    return computations, entry


def _line(text: str, shapes: dict[str, str], total: Any) -> float:
    if product := re.search(r"\bdot\(%?([\w.\-]+), ", text):
        left = _numbers(shapes[product[1]])
        contracted = _size(text, "lhs_contracting_dims", left)
        batch = _size(text, "lhs_batch_dims", left)
        rows = math.prod(left) // contracted // batch
        out = _SHAPE.match(text)
        columns = math.prod(_numbers(out[1] if out else "")) // batch // rows
        return 2.0 * batch * rows * columns * contracted if columns > 1 else 0.0
    if branches := _BRANCHES.search(text):
        names = [name.strip().lstrip("%") for name in branches[1].split(",")]
        return sum(map(total, names)) / len(names)
    called = _CALLED.findall(text)
    inside = sum(map(total, called))
    if " while(" in text and inside:
        turns = _TURNS.search(text)
        if not turns:
            raise ValueError("a loop with matrix products and an unknown number of turns")
        return inside * int(turns[1])
    if "true_computation" in text:
        return inside / len(called)
    return inside


def _size(text: str, name: str, shape: list[int]) -> int:
    """How many numbers the dimensions `name` of a product's left side have together."""
    dims = re.search(name + r"={([\d,]*)}", text)
    return math.prod(shape[i] for i in _numbers(dims[1])) if dims else 1


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]
