"""What other packages add to this one, by entry points, and what files of its own do, by their names."""

import importlib.metadata
from collections.abc import Callable
from typing import Any, TypeVar

from qgf_jax.errors import UserError, raised

_F = TypeVar("_F", bound=Callable[..., Any])


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


class ByModule(dict[str, Any]):
    """Module -> what the module declares, for files that are found by their names."""

    def declare(self, function: _F) -> _F:
        """A decorator of a module's one function; it returns the function."""
        self[function.__module__] = function
        return function

    def of(self, module: str) -> Any:
        """What a module declares; imports it."""
        importlib.import_module(module)
        return self[module]
