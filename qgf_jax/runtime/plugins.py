"""What other packages add to this one, by entry points."""

import importlib.metadata
from typing import Any

from qgf_jax.errors import UserError, raised


def load_entry(entry: importlib.metadata.EntryPoint, what: str) -> Any:
    """What an entry point names. Raises `UserError`, in one line, if that cannot be imported."""
    try:
        return entry.load()
    except Exception as error:
        owner = entry.dist.name if entry.dist else "a package"
        raise UserError(
            f"{owner} adds {what} by {entry.value!r}, which cannot be imported ({raised(error)}): "
            f"mend or uninstall {owner}"
        ) from error
