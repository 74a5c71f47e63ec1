"""Named places at which a test lets the program die, or be asked to stop. Idle otherwise.

`QGF_CRASH_AT=name:n` ends the process at the n-th visit as a kill would, with nothing flushed or
closed; `QGF_SIGNAL_AT=name:n` sends it SIGTERM there.
"""

import collections
import os
import signal

_seen: collections.Counter[str] = collections.Counter()


def failpoint(name: str) -> None:
    """A place with a name."""
    _seen[name] += 1
    if _is_here("QGF_CRASH_AT", name):
        os._exit(137)
    if _is_here("QGF_SIGNAL_AT", name):
        os.kill(os.getpid(), signal.SIGTERM)


def _is_here(variable: str, name: str) -> bool:
    wanted, _, count = os.environ.get(variable, "").partition(":")
    return wanted == name and _seen[name] == int(count or 1)
