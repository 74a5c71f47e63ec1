"""Frames of the websocket: msgpack dictionaries with arrays, as openpi's server and clients have them.

An array is {b"__ndarray__": True, b"data", b"dtype", b"shape"}, a NumPy number {b"__npgeneric__": True,
b"data", b"dtype"}. What comes from outside is read here and nowhere else: nothing is unpickled, no type
is looked up by name, and a size that is claimed is compared with the bytes that are there before
anything is made of that size. No JAX, no sockets.
"""

import math
import re
from typing import Any

import numpy as np

from qgf_jax.errors import UserError, one_line

_DTYPE = re.compile(r"\|b1|\|[iu]1|[<>]([iu][248]|f[248])")
"""Truth values, whole numbers and floats: `numpy.dtype.str` of each."""
_MOST_AXES = 4
_MOST_ENTRIES = 4096
"""Of a list. With 1024 lists in one another, which is where msgpack stops, 32 MB are claimed at most."""
_MOST_KEYS = 256
_MOST_TEXT = 4096


def decode(frame: bytes) -> dict[str, Any]:
    """The dictionary in a binary frame, with arrays in it. Raises `UserError`, one line."""
    import msgpack

    try:
        message = msgpack.unpackb(
            frame,
            object_hook=_array,
            max_array_len=_MOST_ENTRIES,
            max_map_len=_MOST_KEYS,
            max_str_len=_MOST_TEXT,
            max_bin_len=len(frame),
            max_ext_len=0,
        )
    except UserError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        cause = one_line(" ".join(str(error).split()))[:100] or type(error).__name__
        raise UserError(f"message is no msgpack dictionary of this protocol ({cause})") from None
    if not isinstance(message, dict):
        raise UserError(f"message is a {type(message).__name__}: send a dictionary")
    if wrong := next((key for key in message if not isinstance(key, str)), None):
        raise UserError(f"message has the key {_short(wrong)}: keys are texts")
    return message


def encode(message: dict[str, Any]) -> bytes:
    """The binary frame of a dictionary, with NumPy's arrays and numbers in it."""
    import msgpack

    return msgpack.packb(message, default=_packed)


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and not _DTYPE.fullmatch(value.dtype.str):
        raise TypeError(f"an array of {value.dtype} cannot be sent")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _array(found: dict[Any, Any]) -> Any:
    """The array or number that a dictionary stands for, or the dictionary."""
    if b"__ndarray__" in found:
        dtype, shape, data = (found.get(name) for name in (b"dtype", b"shape", b"data"))
        return _checked_array(dtype, shape, data)
    if b"__npgeneric__" in found:
        value = found.get(b"data")
        if not isinstance(value, bool | int | float):
            raise UserError("a NumPy number's data is no number")
        return value
    return found


def _checked_array(dtype: Any, shape: Any, data: Any) -> np.ndarray:
    kind = _checked_dtype(dtype)
    _check_shape(shape)
    if not isinstance(data, bytes):
        raise UserError("array has no data: send its bytes")
    if (needed := math.prod(shape) * kind.itemsize) != len(data):
        raise UserError(
            f"array of shape {_short(shape)} and dtype {kind.str} needs {needed} bytes, and has "
            f"{len(data)}"
        )
    return np.frombuffer(data, kind).reshape(shape)


def _checked_dtype(dtype: Any) -> np.dtype:
    name = dtype.decode("ascii", "replace") if isinstance(dtype, bytes) else dtype
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise UserError(
            f"array has dtype {_short(name)}: send whole numbers or floats, such as '<f4'"
        )
    return np.dtype(name)


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, list | tuple) or len(shape) > _MOST_AXES:
        raise UserError(f"array has shape {_short(shape)}: send at most {_MOST_AXES} whole numbers")
    if not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise UserError(f"array has shape {_short(shape)}: send whole numbers")


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**50 else "a huge number"
    return one_line(text if len(text) <= 60 else f"{text[:57]}...")
