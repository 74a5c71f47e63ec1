"""Fresh interpreters: workers, renderer and collecting processes, none of which imports from here.

Python puts the working folder in front of its own library, so a file `random.py` there would stand in
for the library's. `-P` leaves it out; PYTHONPATH still counts.
"""

import contextlib
import os
import sys
from collections.abc import Generator
from pathlib import Path

_HOME = str(Path(__file__).parent.parent.parent)


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs `module` as a program, with this very package behind all others.

    The package may have been found in the working folder, as in a checkout that nobody installed.
    """
    code = (
        f"import runpy, sys; sys.path.append({_HOME!r}); "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-P", "-c", code, *arguments]


@contextlib.contextmanager
def safe_path() -> Generator[None]:
    """The same for processes that `multiprocessing` starts meanwhile."""
    with variable("PYTHONSAFEPATH", "1"):
        yield


@contextlib.contextmanager
def variable(name: str, value: str) -> Generator[None]:
    """Sets one variable of the environment for the block. Other threads see all others as they were."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def leave_working_folder_last() -> None:
    """Moves the working folder, which `python -m` has put first, to the end of the search path."""
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))
