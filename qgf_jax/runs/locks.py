"""Who may write to a run folder: one process trains and one evaluates at a time. No JAX."""

import contextlib
import datetime
import fcntl
import os
import socket
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple, TextIO

from qgf_jax.errors import SaveError, UserError, log


class _Work(NamedTuple):
    """What one process at a time does in a run folder."""

    participle: str
    file: str
    """The name of the lock file."""
    elsewhere: str
    """Advice: how the command works in another folder."""

    @contextlib.contextmanager
    def lock(self, workdir: Path) -> Generator[int]:
        """Locks the folder for this process. Raises `UserError` if another one has it.

        The lock is the operating system's and ends with the process, however that ends. Where the file
        system has no locks, a line warns and the folder is used without one. Yields the descriptor of
        the lock: a child that inherits it keeps the lock as long as it lives.
        """
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            file = (workdir / self.file).open("a+")
        except OSError as error:
            raise SaveError.at(workdir, error, self.elsewhere) from error
        with file:
            try:
                self._acquire(file, workdir)
            except OSError as error:
                log(
                    f"qgf: warning: {workdir} has no file locks ({error.strerror}): make sure that no "
                    "other process writes there"
                )
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            with contextlib.suppress(OSError):  # for others to read; the lock holds without it
                os.ftruncate(file.fileno(), 0)
                line = f"process {os.getpid()} on {socket.gethostname()} since {now}\n"
                os.write(file.fileno(), line.encode())
            yield file.fileno()

    def check_free(self, workdir: Path) -> None:
        """Raises `UserError` if another process has locked the folder. Writes nothing."""
        try:
            file = (workdir / self.file).open("r+")
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise SaveError.at(workdir, error, self.elsewhere) from error
        with file, contextlib.suppress(OSError):
            self._acquire(file, workdir)

    def holder(self, workdir: Path) -> str:
        """Who has locked the folder, "process N on HOST since TIME"; "" if nobody has or can be seen.

        For the moment of the question nobody else gets the lock.
        """
        try:
            with (workdir / self.file).open() as file:
                return _holder(file, fcntl.LOCK_SH)
        except OSError:
            return ""

    def _acquire(self, file: TextIO, workdir: Path) -> None:
        """Raises `UserError` if another process has the lock, `OSError` if there are no locks."""
        if holder := _holder(file, fcntl.LOCK_EX):
            raise UserError(
                f"{workdir} is being {self.participle} by {holder}: wait for it or {self.elsewhere}"
            )


def _holder(file: TextIO, kind: int) -> str:
    """Who has the lock of an open file; "" if it is ours now. Raises `OSError` if there are no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        return " ".join(file.read().split()) or "another process"
    return ""


TRAINING = _Work("trained", "LOCK", "choose another --workdir")
EVALUATION = _Work("evaluated", "episodes.lock", "give --out=FOLDER")
JOB = _Work("worked on", "job.lock", "stop it by `qgf sweep cancel`")
SWEEP = _Work("planned", "sweep.lock", "choose another --out")
