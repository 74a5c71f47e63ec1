"""Errors that a user can mend, and lines on standard error.

The command line prints such an error as one line and exits with its code.
"""

import contextlib
import errno
import functools
import os
import re
import sys
import traceback
from collections.abc import Generator, Iterable
from pathlib import Path

from qgf_guide.errors import UserError as UserError

ELSEWHERE = "choose a folder that you may write to"


class NoSoundCheckpointError(UserError):
    """Checkpoints were sealed, and every one of them has changed since."""

    code = 3


class NotFiniteError(UserError):
    """Training met a NaN or an infinity that no further step would mend."""

    code = 4


class SaveError(UserError):
    """A file that was asked for could not be written."""

    code = 5

    @classmethod
    def at(cls, path: object, error: OSError, elsewhere: str = ELSEWHERE) -> "SaveError":
        """What the operating system says, where, and what to do.

        `elsewhere` is the advice for a place that nobody may write to.
        """
        cause = error.strerror or str(error)
        return cls(f"{path} could not be written: {cause}: {cls.remedy(error, elsewhere)}")

    @staticmethod
    def remedy(error: BaseException, elsewhere: str = ELSEWHERE) -> str:
        """What to do about a failed write, by the error's number or by the cause that its text names.

        Libraries that write files pass on the operating system's text and not its number.
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
        return "check the disk and run the command again"


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


@contextlib.contextmanager
def saving(path: object, elsewhere: str = ELSEWHERE) -> Generator[None]:
    """Turns an `OSError` of the block into a `SaveError` about its own file, or about `path`."""
    try:
        yield
    except OSError as error:
        raise SaveError.at(error.filename or path, error, elsewhere) from error


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """A signal came. The command line exits with 128 plus its number, as a shell does."""

    def __init__(self, signum: int, kept: str):
        super().__init__(kept)
        self.code = 128 + signum


def said(error: BaseException, most: int = 160) -> str:
    """What an error says, in one line of at most so many letters; "" if it says nothing."""
    return " ".join(str(error).split())[:most]


def raised(error: BaseException, most: int = 200) -> str:
    """An error's kind and what it says, or where it is from if it says nothing, as an assertion does."""
    kind = type(error).__name__
    if text := said(error, most):
        return f"{kind}: {text}"
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"{kind} in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else kind
    )


def log(line: str) -> None:
    """Writes a line to standard error, if that is still open: training goes on when nobody reads."""
    with contextlib.suppress(OSError, ValueError):
        print(one_line(line), file=sys.stderr, flush=True)


log_once = functools.lru_cache(maxsize=1000)(log)
"""`log`, but not for a line that this process has logged before."""


def one_line(text: str) -> str:
    """`text` with control characters, which a path may hold, written as escapes."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)
