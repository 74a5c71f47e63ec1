"""Paths as a user writes them."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from qgf_jax.errors import UserError


def expand(text: str) -> Path:
    """A path with `~` and `~user` expanded. Raises `UserError` for a path that no file can have."""
    if not text or "\0" in text:
        raise UserError(f"{text!r} is no path")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{text}: there is no such home folder: write the path out") from None
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        try:
            os.lstat(path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise UserError(f"{text} is too long a path: choose a shorter one") from None
            raise
    return path


def split(text: str, separator: str, is_there: Callable[[Path], bool] = Path.exists) -> list[str]:
    """The paths in `text`, between separators. A path that exists may contain the separator itself.

    At each position the longest path that exists counts; if none exists, the path ends at the first
    separator.
    """
    words, parts = text.split(separator), []
    while words:
        for n in range(len(words), 0, -1):
            part = separator.join(words[:n])
            if n == 1 or _holds(is_there, part):
                break
        parts.append(part)
        words = words[n:]
    return parts


def _holds(is_there: Callable[[Path], bool], text: str) -> bool:
    try:
        return is_there(expand(text))
    except UserError:
        return False
