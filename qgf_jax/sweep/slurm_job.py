"""The process of a Slurm job: one command, its signals, and its exit code in a file.

Slurm sends SIGTERM when the time is nearly over (`--signal=B:TERM@…`) and when the job is preempted,
requeued or cancelled, sometimes twice, and to the first process alone or to its whole group. A training
saves at the first SIGTERM and ends at once at the second, so the command runs in a session of its own,
and this process passes on one.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from qgf_jax.runs.files import write_atomically
from qgf_jax.runtime import children

STOP = "stop"
"""The file in the parent of `folder` by which an engine says that no job is to go on."""
_SAVED = 128 + signal.SIGTERM
_MOST_RESTARTS = 100
"""A time limit in which no step is saved would begin a job again for ever."""


def code_file(index: int) -> str:
    """The name of the file in `folder` that has the exit code of one of an array's jobs."""
    return f"{index}.code"


def _run(folder: Path, index: int, cwd: Path, log: Path, words: Sequence[str]) -> int:
    """Runs a command to its end, writes its exit code to a file in `folder`, and returns it.

    Where SIGTERM has ended it, and the engine did not ask for that, the job is queued again, and there
    is no exit code yet. Raises `SaveError` for a file that cannot be written.
    """
    stop, code = folder.parent / STOP, _SAVED
    asked: list[int] = []
    if not stop.exists():
        with _sigterm_to(asked):
            code = _wait(children.start_logged(words, log, cwd=cwd), asked)
        if asked and code == _SAVED and not stop.exists() and _requeue():
            return code
    write_atomically(folder / code_file(index), str(code))
    return code


@contextlib.contextmanager
def _sigterm_to(asked: list[int]) -> Generator[None]:
    """In the block SIGTERM is only noted."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(process: subprocess.Popen[Any], asked: list[int]) -> int:
    """The exit code, 128 + n for signal n; passes on the first SIGTERM and no other."""
    told = False
    while True:
        if asked and not told:
            process.terminate()
            told = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(0.2)
            return 128 - code if code < 0 else code


def _requeue() -> bool:
    """Whether the job is queued again: Slurm does so itself if it has preempted it, and else we ask."""
    told = os.environ
    if int(told.get("SLURM_RESTART_COUNT", 0)) >= _MOST_RESTARTS:
        return False
    job = f"{told['SLURM_ARRAY_JOB_ID']}_{told['SLURM_ARRAY_TASK_ID']}"
    subprocess.run(["scontrol", "requeue", job], stdin=subprocess.DEVNULL, check=False)
    return True  # if it is not, its final state says so


if __name__ == "__main__":
    _folder, _index, _cwd, _log, *_words = sys.argv[1:]
    sys.exit(_run(Path(_folder), int(_index), Path(_cwd), Path(_log), _words))
