"""Named points at which a test can kill the program or send it a signal. Otherwise they do nothing.

`QGF_CRASH_AT=name:n` ends the process at the n-th visit as a kill would, with nothing flushed or closed;
`QGF_SIGNAL_AT=name:n` sends it SIGTERM there.
"""

import collections
import os
import signal

_visits: collections.Counter[str] = collections.Counter()


def failpoint(name: str) -> None:
    """Marks the point `name`."""
    _visits[name] += 1
    if _is_here("QGF_CRASH_AT", name):
        os._exit(137)
    if _is_here("QGF_SIGNAL_AT", name):
        os.kill(os.getpid(), signal.SIGTERM)


def _is_here(variable: str, name: str) -> bool:
    point, _, visit = os.environ.get(variable, "").partition(":")
    return point == name and _visits[name] == int(visit or 1)
