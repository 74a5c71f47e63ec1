"""Files that OGBench's mazes are made from, and that it leaves behind. No JAX."""

import contextlib
import os
import tempfile
import types
from collections.abc import Generator
from typing import Any
from unittest import mock


@contextlib.contextmanager
def removed() -> Generator[None]:
    """A maze that is made meanwhile leaves nothing.

    OGBench writes the description of each one to a temporary file, which MuJoCo reads once, and then
    leaves the file and its open descriptor: a run that makes mazes by the thousand fills the folder.
    """
    from ogbench.locomaze import maze

    made: list[tuple[int, str]] = []

    def mkstemp(**how: Any) -> tuple[int, str]:
        made.append(tempfile.mkstemp(**how))
        return made[-1]

    with mock.patch.object(maze, "tempfile", types.SimpleNamespace(mkstemp=mkstemp)):
        try:
            yield
        finally:
            for descriptor, path in made:
                os.close(descriptor)
                os.unlink(path)
