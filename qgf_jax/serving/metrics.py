"""What the server counts, in Prometheus' text format 0.0.4. No JAX, no sockets."""

import threading
from collections.abc import Callable

_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds."""
_ROWS = (1, 2, 4, 8, 16, 32, 64)
OUTCOMES = ("answered", "refused", "failed")
"""Of a message: an action; one line for what the client sent; one line for what it did not cause."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]):
        self._bounds, self._counts = bounds, [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        place = next((i for i, bound in enumerate(self._bounds) if value <= bound), -1)
        self._counts[place] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        lines, total = [], 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self._sum}", f"{name}_count {total}"]


class Metrics:
    """Counters and histograms of a server; any thread may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes = dict.fromkeys(OUTCOMES, 0)
        self._turned_away = 0
        self._connections = 0
        self._request, self._call = _Histogram(_BOUNDS), _Histogram(_BOUNDS)
        self._rows = _Histogram(_ROWS)
        self._gauges: dict[str, tuple[str, Callable[[], int]]] = {}

    def gauge(self, name: str, about: str, read: Callable[[], int]) -> None:
        """Adds a number that is read when metrics are asked for."""
        self._gauges[name] = (about, read)

    def connected(self) -> None:
        """A client has connected."""
        with self._lock:
            self._connections += 1

    def turned_away(self) -> None:
        """A client was refused: no token, or too many clients."""
        with self._lock:
            self._turned_away += 1

    def message(self, outcome: str, seconds: float) -> None:
        """A message was answered, with one of `OUTCOMES`."""
        with self._lock:
            self._outcomes[outcome] += 1
            self._request.add(seconds)

    def called(self, rows: int, seconds: float) -> None:
        """A program has acted for so many rows."""
        with self._lock:
            self._rows.add(rows)
            self._call.add(seconds)

    def text(self) -> str:
        """All of them, as Prometheus reads them."""
        with self._lock:
            counters = [
                f'qgf_messages_total{{outcome="{name}"}} {count}'
                for name, count in self._outcomes.items()
            ]
            parts = [
                _part("qgf_messages_total", "counter", "Messages by what they got.", counters),
                _counter("qgf_connections_total", "Clients that connected.", self._connections),
                _counter("qgf_turned_away_total", "Clients that were refused.", self._turned_away),
                _histogram("qgf_message_seconds", "From message to answer.", self._request),
                _histogram("qgf_call_seconds", "Calls of the policy's program.", self._call),
                _histogram("qgf_call_rows", "Observations of a call.", self._rows),
            ]
        for name, (about, read) in self._gauges.items():
            parts.append(_part(name, "gauge", about, [f"{name} {read()}"]))
        return "\n".join(parts) + "\n"


def _part(name: str, kind: str, about: str, lines: list[str]) -> str:
    return "\n".join([f"# HELP {name} {about}", f"# TYPE {name} {kind}", *lines])


def _counter(name: str, about: str, value: int) -> str:
    return _part(name, "counter", about, [f"{name} {value}"])


def _histogram(name: str, about: str, values: _Histogram) -> str:
    return _part(name, "histogram", about, values.lines(name))
