"""Reads pickles of dicts, numbers and arrays without running anything in them. No JAX.

A pickle is a program that may call anything. Even an `Unpickler` that allows only four names can be made
to take 16 GB (14 bytes are enough) or to crash the process (a deep key is enough). So this module reads
the program instruction by instruction, with a machine that knows only the instructions of such files: it
makes dicts, tuples, texts, numbers and arrays of plain numbers, and calls nothing.
"""

import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np


class _Name(str):
    """A function or class that the file names; only ever compared."""


class Made:
    """What a call instruction makes: an array, or a type of numbers."""

    def __init__(self, kind: str, code: str = ""):
        self.kind, self.code = kind, code
        self.value: np.ndarray | None = None


_ARRAY, _EMPTY, _DTYPE, _ON_DEVICE = (
    _Name("numpy.ndarray"),
    _Name("numpy._core.multiarray._reconstruct"),
    _Name("numpy.dtype"),
    _Name("jax._src.array._reconstruct_array"),
)
_FROM_BUFFER = _Name("numpy._core.numeric._frombuffer")  # protocol 5, Python's own since 3.14
_NAMES = (_ARRAY, _EMPTY, _DTYPE, _ON_DEVICE, _FROM_BUFFER)


def _named(module: Any, name: Any) -> _Name:
    if type(module) is not str or type(name) is not str:
        raise ValueError("it names what has no name")
    module = module.replace("numpy.core.", "numpy._core.")  # before NumPy 2
    full = _Name(f"{module}.{name}")
    if full not in _NAMES:
        raise ValueError(f"it names {_short(full)}, which no such file needs")
    return full


def _call(function: Any, arguments: Any) -> Made:
    """What calling one of `_NAMES` would give."""
    made = None
    if isinstance(function, _Name) and function in _CALLS:
        made = _CALLS[function](arguments)
    if made is None:
        raise ValueError(f"it calls {_short(function)} otherwise than such files do")
    return made


def _empty_array(arguments: Any) -> Made | None:
    return Made("array") if arguments == (_ARRAY, (0,), b"b") else None


def _number_type(arguments: Any) -> Made | None:
    if arguments[1:] != (False, True):
        return None
    if not re.fullmatch(r"[fiu][1248]|b1", arguments[0]):
        raise ValueError(f"it holds numbers of type {_short(arguments[0])}")
    return Made("type", arguments[0])


def _array_from_buffer(arguments: Any) -> Made | None:
    if len(arguments) != 4 or arguments[3] not in ("C", "F"):
        return None
    raw, kind, shape, order = arguments
    made = Made("array")
    _fill(made, (1, shape, kind, order == "F", raw))
    return made


def _device_array(arguments: Any) -> Made | None:
    if len(arguments) != 4 or arguments[0] != _EMPTY:
        return None
    made = _call(_EMPTY, arguments[1])
    _fill(made, arguments[2])
    return made


_CALLS: dict[str, Callable[[Any], Made | None]] = {
    _EMPTY: _empty_array,
    _DTYPE: _number_type,
    _FROM_BUFFER: _array_from_buffer,
    _ON_DEVICE: _device_array,
}
"""What each name makes of its arguments; `None` if they are not those of such files."""


def _fill(made: Any, state: Any) -> None:
    """Gives an array its shape and numbers, or checks a type's order of bytes."""
    if not isinstance(made, Made) or not isinstance(state, tuple):
        raise ValueError("it gives a state to what has none")
    if made.kind == "array":
        made.value = _array(state)
    elif state[1] not in ("<", "|", "="):
        raise ValueError("it holds numbers of another order of bytes")


def _array(state: tuple[Any, ...]) -> np.ndarray:
    version, shape, kind, by_columns, raw = state
    if version != 1 or not isinstance(raw, bytes) or getattr(kind, "kind", "") != "type":
        raise ValueError("it holds an array of no plain numbers")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"it holds an array of shape {_short(shape)}")
    return np.frombuffer(raw, kind.code).reshape(shape, order="F" if by_columns else "C")


class _Machine:
    """Memory of the program: a stack, marks in it, and what was noted for later."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.noted: dict[int, Any] = {}

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise ValueError("it takes more than it has put")
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        keys, values = pairs[::2], pairs[1::2]
        # A key that is no text could be one whose hash never ends.
        if not isinstance(target, dict) or not all(type(key) is str for key in keys):
            raise ValueError("it is no dict of named things")
        target.update(zip(keys, values, strict=True))

    def step(self, name: str, argument: Any) -> None:
        """Does one instruction."""
        if name in _CONSTANTS:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _TUPLES:
            taken = [self.pop() for _ in range(_TUPLES[name])]
            self.stack.append(tuple(taken[::-1]))
        elif name in _OTHERS:
            _OTHERS[name](self, argument)
        else:
            raise ValueError(f"it has the instruction {name}, which no such file needs")


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.stack.append(_call(function, arguments))


def _build(machine: _Machine, _: Any) -> None:
    state = machine.pop()
    _fill(machine.stack[-1], state)


def _stack_name(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.stack.append(_named(module, name))


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


_CONSTANTS = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
_NEW: dict[str, Callable[[], Any]] = {
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "NONE": lambda: None,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OTHERS: dict[str, Callable[[_Machine, Any], None]] = {
    "BYTEARRAY8": lambda machine, raw: machine.stack.append(bytes(raw)),
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "MEMOIZE": lambda machine, _: machine.noted.update({len(machine.noted): machine.stack[-1]}),
    "BINPUT": lambda machine, place: machine.noted.update({place: machine.stack[-1]}),
    "LONG_BINPUT": lambda machine, place: machine.noted.update({place: machine.stack[-1]}),
    "BINGET": lambda machine, place: machine.stack.append(machine.noted[place]),
    "LONG_BINGET": lambda machine, place: machine.stack.append(machine.noted[place]),
    "GLOBAL": lambda machine, text: machine.stack.append(_named(*text.split(" ", 1))),
    "STACK_GLOBAL": _stack_name,
    "REDUCE": _reduce,
    "BUILD": _build,
}


def load(raw: bytes) -> Any:
    """The content of a pickle of dicts and arrays. Raises `ValueError` for any other pickle."""
    machine = _Machine()
    for instruction, argument, _ in pickletools.genops(raw):
        if instruction.name == "STOP":
            if len(machine.stack) != 1 or machine.marks:
                raise ValueError("it ends in the middle")
            return machine.stack[0]
        machine.step(instruction.name, argument)
    raise ValueError("it has no end")


def _short(what: Any) -> str:
    """A text for a message; of anything else its type, as it may be endless."""
    return (
        re.sub(r"[^ -~]", "?", what[:60]) if isinstance(what, str) else f"a {type(what).__name__}"
    )
