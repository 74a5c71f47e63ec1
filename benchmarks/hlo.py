"""Optimised HLO, read as text: what a kernel reads and writes."""

import math
import re
from typing import NamedTuple

_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
_LINE = re.compile(r"\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)")
_PARTS = ("dynamic-slice", "gather", "slice")


class _Instruction(NamedTuple):
    size: int
    operation: str
    operands: tuple[str, ...]
    number: int
    """of a parameter"""
    calls: str


class Program:
    """The instructions of a module; their names are the module's, not a computation's."""

    def __init__(self, text: str):
        self._found: dict[str, _Instruction] = {}
        self._inside: dict[str, dict[str, _Instruction]] = {}
        self._parameters: dict[str, dict[int, str]] = {}
        computation = ""
        for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
            if start := re.match(r"(?:ENTRY )?%([\w.\-]+) .*\{$", line):
                computation = start[1]
            elif match := _LINE.match(line):
                self._add(computation, match)

    def _add(self, computation: str, match: re.Match[str]) -> None:
        name, shape, operation, rest = match.groups()
        inside = rest.split(")")[0]
        number = int(inside) if operation == "parameter" else -1
        calls = (re.search(r"calls=%?([\w.\-]+)", rest) or ["", ""])[1]
        one = _Instruction(
            size_of(shape), operation, tuple(re.findall(r"%([\w.\-]+)", inside)), number, calls
        )
        self._found[name] = one
        self._inside.setdefault(computation, {})[name] = one
        if number >= 0:
            self._parameters.setdefault(computation, {})[number] = name

    def traffic(self, kernel: str) -> int:
        """Bytes that an instruction reads and writes; 0 for a name that is not here.

        Of what is only looked up in, as rows of a data set are, those that are looked up.
        """
        one = self._found.get(kernel)
        if one is None:
            return 0
        reads = (self._read(one.calls, i, operand) for i, operand in enumerate(one.operands))
        return one.size + sum(reads)

    def _read(self, computation: str, place: int, operand: str) -> int:
        found = self._found.get(operand)
        whole = found.size if found else 0
        parameter = self._parameters.get(computation, {}).get(place, "")
        return min(whole, self._of(computation, parameter, whole)) if parameter else whole

    def _of(self, computation: str, name: str, whole: int) -> int:
        """What the users of a value read of it, `whole` unless all take parts."""
        read = 0
        for user, one in self._inside[computation].items():
            if name in one.operands:
                if one.operation == "bitcast":
                    read += self._of(computation, user, whole)
                else:
                    part = one.operation in _PARTS and one.operands[0] == name
                    read += one.size if part else whole
        return read


def size_of(shape: str) -> int:
    """Bytes of a type as HLO writes it, `f32[2,3]{1,0}` or a tuple of such."""
    return sum(
        _BYTES.get(kind, 4) * math.prod(int(n) for n in sizes.split(",") if n)
        for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shape)
    )
