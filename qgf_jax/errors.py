"""Errors that a user can mend. The command line prints them as one line and leaves with code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Says in one line what is wrong, where, and what to do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """`name` is none of `known`: an error with the nearest good spelling, or with all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it must be one of {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}: {hint}")
