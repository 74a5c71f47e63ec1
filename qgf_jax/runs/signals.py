"""A request to stop is noticed at once and heeded where nothing is lost. No JAX here."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

from qgf_jax.errors import Stopped

_ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """From entry to exit SIGTERM, SIGINT and SIGHUP only leave a note; the second one ends the program.

    One that is ignored stays so: `nohup` and shells' background jobs rely on it.

    Whoever works in a loop asks `wanted`, or calls `check`, between two pieces of work. A compilation
    or whatever else does not look is finished first.

    With `forward`, SIGTERM is another's to hear, and the first of the other two is sent on as SIGTERM.
    """

    def __init__(self, *, forward: bool = False) -> None:
        self.wanted = 0
        """The number of the signal, 0 while none has come."""
        self.asked = 0
        """How often a loop has asked, where several processes have to agree."""
        self.sent = 0
        """The number of the signal that was sent on."""
        self._forward = forward
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # others may not, says Python
            asks = [ask for ask in _ASKS if not (self._forward and ask == signal.SIGTERM)]
            wanted = [ask for ask in asks if signal.getsignal(ask) != signal.SIG_IGN]
            self._before = {ask: signal.signal(ask, self._note) for ask in wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for ask, handler in self._before.items():
            signal.signal(ask, handler)

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
        """Raises `Stopped`, which says what was kept, if a signal has come."""
        if self.wanted:
            raise Stopped(self.wanted, kept)
