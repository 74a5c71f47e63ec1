"""What a user says of a path."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from qgf_jax.errors import UserError


def expand(text: str) -> Path:
    """A path with `~` and `~user` expanded. Raises `UserError` if no file can have it."""
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


def split(
    text: str, separator: str, is_there: Callable[[str | Path], bool] = os.path.exists
) -> list[str]:
    """The paths in `text`, between separators. A path that exists may hold the separator itself.

    At each place the longest path that exists counts; where none does, the path ends at the first
    separator.
    """
    words, found = text.split(separator), []
    while words:
        for n in range(len(words), 0, -1):
            path = separator.join(words[:n])
            if n == 1 or is_there(os.path.expanduser(path)):
                break
        found.append(path)
        words = words[n:]
    return found
