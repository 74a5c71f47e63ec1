"""Starts fresh interpreters, such as workers and renderers, that import nothing from the working folder.

Python puts the working folder in front of its own library, so a file `random.py` there would replace the
library's. The flag `-P` leaves the folder out; PYTHONPATH still counts.
"""

import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path

_HOME = str(Path(__file__).parent.parent.parent)


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` as a program, with this package last on the search path.

    The package may have been found in the working folder, as in a checkout that is not installed.
    """
    code = (
        f"import runpy, sys; sys.path.append({_HOME!r}); "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-P", "-c", code, *arguments]


@contextlib.contextmanager
def variable(name: str, value: str) -> Generator[None]:
    """Sets an environment variable for the block; the other variables stay as they are."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
