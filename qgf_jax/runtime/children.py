"""Starts fresh interpreters, such as workers and renderers, that import nothing from the working folder.

Python puts the working folder in front of its own library, so a file `random.py` there would replace the
library's. The flag `-P` leaves the folder out; PYTHONPATH still counts.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

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


def start_logged(words: Sequence[str], log: Path, **options: Any) -> subprocess.Popen:
    """Starts a command that reads nothing and writes to the end of a file, whose folder is made.

    It has a session of its own: a terminal's Ctrl-C is for its parent, which passes it on, once.
    `options` as of `subprocess.Popen`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            **options,
        )


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
