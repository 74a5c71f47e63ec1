"""Readers of other people's datasets, a file each.

Each module declares in `OPENERS` a function `(place, choice) -> Recording`: what the source says of
itself, and its episodes one after another. `qgf convert FORMAT:PLACE` writes them in one layout. A
format needs the library that owns it, as an optional extra. Formats of other packages are found by the
entry-point group `qgf_jax.formats`, whose entries name such a function.
"""

import importlib.metadata
from collections.abc import Iterable

from qgf_jax.data.readers.recording import ALL, OPENERS, Choice, Recording
from qgf_jax.errors import UserError
from qgf_jax.runtime.plugins import load_entry

_OURS = ("d4rl", "lerobot", "minari", "npz", "robomimic")
_GROUP = "qgf_jax.formats"


def formats() -> list[str]:
    """The names of all formats, sorted."""
    return sorted({*_OURS, *(entry.name for entry in _outside())})


def open_recording(source: str, choice: Choice = ALL) -> Recording:
    """Opens FORMAT:PLACE. Raises `UserError` for an unknown format, or for a bad source."""
    name, _, place = source.partition(":")
    if name not in formats():
        raise UserError.unknown("format of data", name, formats())
    if not place:
        raise UserError(f"{source!r} says no place: write {name}:PLACE")
    if name in _OURS:
        opens = OPENERS.of(f"{__name__}.{name}")
    else:
        entry = next(entry for entry in _outside() if entry.name == name)
        opens = load_entry(entry, "a format of data")
    try:
        found = opens(place, choice)
    except OSError as error:  # of a path that no file can have, or that nobody may read
        raise UserError.unreadable(source[:200], error) from None
    if not isinstance(found, Recording):
        raise UserError(f"{source}: {found!r} is no `Recording`: mend its entry in {_GROUP}")
    return found


def _outside() -> Iterable[importlib.metadata.EntryPoint]:
    return importlib.metadata.entry_points(group=_GROUP)
