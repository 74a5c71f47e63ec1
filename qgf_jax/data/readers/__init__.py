"""Readers of other people's datasets, a file each.

Each module has `open_recording(place, choice) -> Recording`: what the source says of itself, and its
episodes one after another. `qgf convert FORMAT:PLACE` writes them in one layout. A format needs the
library that owns it, as an optional extra. Formats of other packages are found by the entry-point group
`qgf_jax.formats`, whose entries name such a function.
"""

import importlib
import importlib.metadata
from collections.abc import Callable

from qgf_jax.data.readers.recording import ALL, Choice, Recording
from qgf_jax.errors import UserError
from qgf_jax.runtime.plugins import load_entry

_OURS = ("d4rl", "lerobot", "minari", "npz", "robomimic")
_GROUP = "qgf_jax.formats"


def formats() -> dict[str, Callable[[], Callable[..., Recording]]]:
    """Name -> what imports the function that opens a recording of that format."""
    found: dict[str, Callable[[], Callable[..., Recording]]] = {
        entry.name: (lambda entry=entry: load_entry(entry, "a format of data"))
        for entry in importlib.metadata.entry_points(group=_GROUP)
    }
    return found | {name: (lambda name=name: _own(name)) for name in _OURS}


def _own(name: str) -> Callable[..., Recording]:
    return importlib.import_module(f"{__name__}.{name}").open_recording


def open_recording(source: str, choice: Choice = ALL) -> Recording:
    """Opens FORMAT:PLACE. Raises `UserError` for an unknown format, or for a bad source."""
    name, colon, place = source.partition(":")
    known = formats()
    if not colon or name not in known:
        raise UserError(
            f"{source!r} is not FORMAT:PLACE with a format of {', '.join(sorted(known))}"
        )
    if not place:
        raise UserError(f"{source!r} says no place: write {name}:PLACE")
    return known[name]()(place, choice)
