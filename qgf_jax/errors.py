"""Errors that a user can mend. The command line prints them as one line and leaves with their code."""

import contextlib
import difflib
import errno
import functools
import os
import re
import sys
from collections.abc import Generator, Iterable
from typing import ClassVar

ELSEWHERE = "choose a folder that you may write to"


class UserError(ValueError):
    """Says in one line what is wrong, where, and what to do."""

    code: ClassVar[int] = 2


class NoSoundCheckpointError(UserError):
    """Steps were sealed, and none of them is what it was."""

    code = 3


class NotFiniteError(UserError):
    """Training met numbers that no further step would mend."""

    code = 4


class SaveError(UserError):
    """A file that was asked for could not be written."""

    code = 5

    @classmethod
    def at(cls, path: object, error: OSError, elsewhere: str = ELSEWHERE) -> "SaveError":
        """What the operating system says, where, and what to do.

        `elsewhere` says how the command writes to another place, for one that nobody may write to.
        """
        cause = error.strerror or str(error)
        return cls(f"{path} could not be written: {cause}: {remedy(error, elsewhere)}")


_REMEDIES: dict[str, tuple[int, ...]] = {
    "make room and run the command again": (errno.ENOSPC, errno.EDQUOT),
    "raise the limit on the size of files (ulimit -f) and run the command again": (errno.EFBIG,),
    "raise the limit on open files (ulimit -n) and run the command again": (
        errno.EMFILE,
        errno.ENFILE,
    ),
    "make the folder that is missing on the way there": (errno.ENOENT,),
    "move what is in the way or choose another name": (
        errno.EEXIST,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.ELOOP,
    ),
    "choose a shorter name": (errno.ENAMETOOLONG,),
    "choose another name": (errno.EINVAL, errno.EILSEQ),
}
"""What to do when a file could not be written, by the cause."""
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def remedy(error: BaseException, elsewhere: str = ELSEWHERE) -> str:
    """What to do about a failed write: after the error's number, or the cause that its text names.

    Libraries that write by themselves pass on the operating system's text and not its number.
    """
    text = str(error)

    def is_one_of(codes: Iterable[int]) -> bool:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno in codes
        return any(os.strerror(code) in text for code in codes)

    if is_one_of(_FORBIDDEN):
        return elsewhere
    for advice, codes in _REMEDIES.items():
        if is_one_of(codes):
            return advice
    return "look after the disk and run the command again"


def unreadable(path: object, error: OSError) -> UserError:
    """A file that is there and could not be read."""
    advice = {
        errno.EACCES: "ask its owner for the right to read it",
        errno.EISDIR: "move the folder that is in its place",
    }.get(error.errno or 0, "look after the disk and run the command again")
    return UserError(f"{path} could not be read: {error.strerror or error}: {advice}")


@contextlib.contextmanager
def saving(path: object, elsewhere: str = ELSEWHERE) -> Generator[None]:
    """Makes an `OSError` of the block a `SaveError`, of its own file or of `path`."""
    try:
        yield
    except OSError as error:
        raise SaveError.at(error.filename or path, error, elsewhere) from error


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """A signal came. The command line leaves with 128 and its number, as a shell would say it."""

    def __init__(self, signum: int, kept: str):
        super().__init__(kept)
        self.code = 128 + signum


def log(line: str) -> None:
    """A line on standard error, if anybody still reads that: training goes on when nobody does."""
    with contextlib.suppress(OSError, ValueError):
        print(one_line(line), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """`text` with line breaks and other control characters, which a path may hold, as escapes."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


@functools.lru_cache(maxsize=1000)
def log_once(line: str) -> None:
    """`say`, but for a line that this process has said before."""
    log(line)


def unknown_name_error(kind: str, name: str, known: Iterable[str]) -> UserError:
    """`name` is none of `known`: an error with the nearest good spelling, or with all of them."""
    return UserError(f"unknown {kind} {name!r}: {nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice to somebody who wrote `name`: the nearest good spelling, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(known)}"
