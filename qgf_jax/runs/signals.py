"""Signals set a flag that loops check where nothing is lost. No JAX."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

from qgf_jax.errors import Stopped

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """In its block SIGTERM, SIGINT and SIGHUP only set `wanted`; a second signal ends the program.

    A signal that is ignored stays ignored: `nohup` and shells' background jobs rely on it.

    A loop reads `wanted`, or calls `check`, between two pieces of work. Work that does not, such as a
    compilation, is finished first.

    With `forward`, somebody else handles SIGTERM, and the first of the other signals is sent on as
    SIGTERM.
    """

    def __init__(self, *, forward: bool = False) -> None:
        self.wanted = 0
        """The number of the signal, 0 while none has come."""
        self.asked = 0
        """How often a loop has asked whether to stop, where several processes must agree."""
        self.sent = 0
        """The number of the signal that was sent on, 0 while none was."""
        self._forward = forward
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows it to no other
            own = [s for s in _SIGNALS if not (self._forward and s == signal.SIGTERM)]
            heeded = [s for s in own if signal.getsignal(s) != signal.SIG_IGN]
            self._before = {s: signal.signal(s, self._note) for s in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.wanted or self.sent:
            os._exit(128 + signum)
        if self._forward:
            self.sent = signum
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.wanted = signum
        name = signal.Signals(signum).name
        # Not print: the signal may have come in the middle of one. And Ctrl-C ends the `tee` behind too.
        with contextlib.suppress(OSError):
            os.write(2, f"qgf: {name}: saving and stopping; once more stops at once\n".encode())

    def check(self, kept: str) -> None:
        """Raises `Stopped` with the message `kept`, what was saved, if a signal has come."""
        if self.wanted:
            raise Stopped(self.wanted, kept)
