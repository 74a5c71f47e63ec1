"""Errors that a user can mend. The command line prints them as one line and leaves with their code."""

import contextlib
import difflib
import functools
import re
import sys
from collections.abc import Iterable
from typing import ClassVar


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
    def at(cls, path: object, error: OSError) -> "SaveError":
        """What the operating system says, where, and what to do."""
        return cls(
            f"{path} could not be written: {error.strerror}: make room and run the command again"
        )


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """A signal came. The command line leaves with 128 and its number, as a shell would say it."""

    def __init__(self, signum: int, kept: str):
        super().__init__(kept)
        self.code = 128 + signum


def say(line: str) -> None:
    """A line on standard error, if anybody still reads that: training goes on when nobody does."""
    with contextlib.suppress(OSError, ValueError):
        print(one_line(line), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """`text` with line breaks and other control characters, which a path may hold, as escapes."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


@functools.lru_cache(maxsize=1000)
def say_once(line: str) -> None:
    """`say`, but for a line that this process has said before."""
    say(line)


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """`name` is none of `known`: an error with the nearest good spelling, or with all of them."""
    return UserError(f"unknown {kind} {name!r}: {nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice to somebody who wrote `name`: the nearest good spelling, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(known)}"
