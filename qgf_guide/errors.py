"""Errors that a user can mend."""

import difflib
import errno
from collections.abc import Iterable
from typing import ClassVar


class UserError(ValueError):
    """Says in one line what is wrong, where, and what to do."""

    code: ClassVar[int] = 2
    """The exit code of the command line."""

    @classmethod
    def unreadable(cls, path: object, error: OSError) -> "UserError":
        """For a file that is there and could not be read."""
        advice = {
            errno.EACCES: "ask its owner for the right to read it",
            errno.EISDIR: "move the folder that is in its place",
        }.get(error.errno or 0, "check the disk and run the command again")
        return cls(f"{path} could not be read: {error.strerror or error}: {advice}")

    @classmethod
    def unknown(cls, kind: str, name: str, known: Iterable[str]) -> "UserError":
        """An error for a `name` that is not `known`: it gives the nearest spelling, or all of them."""
        return cls(f"unknown {kind} {name!r}: {cls.nearest(name, known)}")

    @staticmethod
    def nearest(name: str, known: Iterable[str]) -> str:
        """Advice for somebody who wrote `name`: the nearest known spelling, or all of them."""
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        return f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(known)}"
