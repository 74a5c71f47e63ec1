"""The websocket server. One connection has one request under way; a thread acts for all of them."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from qgf_jax.errors import SaveError, UserError, log, one_line, raised, said
from qgf_jax.serving import protocol
from qgf_jax.serving.access import Access
from qgf_jax.serving.batcher import Batcher, FailedError
from qgf_jax.serving.metrics import CONTENT_TYPE, Metrics
from qgf_jax.serving.requests import Reader

try:
    from websockets.asyncio.server import Server as _Listener
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.datastructures import Headers
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request, Response
except ImportError:  # said by the command before this module is imported
    raise UserError(
        "qgf serve needs websockets and msgpack, which are not installed: run "
        "`pip install 'qgf-jax[serve]'`"
    ) from None

_MOST_LETTERS = 300
"""Of a line that says what is wrong."""


class Limits(NamedTuple):
    """What a server bears."""

    message: int = 1 << 20
    """Bytes."""
    clients: int = 256
    drain: float = 10.0
    """Seconds for what is under way when it is asked to stop."""
    open: float = 10.0
    """Seconds that a client may take to connect."""
    ping: float = 20.0
    """Seconds after which a silent client is asked whether it is there, and as many to answer."""


USUAL = Limits()


class Server:
    """Serves one policy. `run` is all of it; `stop` ends it, from any thread."""

    def __init__(
        self,
        metadata: Mapping[str, Any],
        reader: Reader,
        batcher: Batcher,
        metrics: Metrics,
        access: Access,
        limits: Limits = USUAL,
    ):
        self._metadata = protocol.encode(dict(metadata))
        self._reader, self._batcher, self._metrics = reader, batcher, metrics
        self._access, self._limits = access, limits
        self._clients: set[ServerConnection] = set()
        self._busy: set[ServerConnection] = set()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port = 0
        """The port, once it listens."""
        metrics.gauge("qgf_clients", "Clients that are connected.", lambda: len(self._clients))
        metrics.gauge("qgf_queue", "Requests that wait.", lambda: batcher.waiting)

    async def run(self, port: int, listening: Callable[[], None] = lambda: None) -> bool:
        """Listens until `stop`, a SIGTERM or a SIGINT; then answers what is under way, and returns.

        Returns whether all of that was answered in time. Calls `listening` once it listens. Raises
        `SaveError` if it may not have the port.
        """
        self._loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(
                ValueError, RuntimeError, NotImplementedError
            ):  # no main thread
                self._loop.add_signal_handler(name, self._stop.set)
        try:
            listener = await self._listen(port)
        except OSError as error:
            what = f"{self._access.host}:{port}"
            raise SaveError(
                f"{what} cannot be listened on ({error.strerror or said(error)}): choose another --port"
            ) from None
        self.port = next(iter(listener.sockets)).getsockname()[1]
        listening()
        await self._stop.wait()
        return await self._drain(listener)

    def stop(self) -> None:
        """As SIGTERM."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def _listen(self, port: int) -> _Listener:
        quiet = logging.getLogger("qgf_jax.serving.websockets")
        quiet.setLevel(logging.CRITICAL + 1)  # a line, or a traceback, for each port scanner
        return await serve(
            self._talk,
            self._access.host,
            port,
            ssl=self._access.tls,
            process_request=self._before_talking,
            logger=quiet,
            compression=None,  # so that a small frame is no large message
            max_size=self._limits.message,
            max_queue=4,
            open_timeout=self._limits.open,
            ping_interval=self._limits.ping,
            ping_timeout=self._limits.ping,
            server_header=None,
        )

    async def _drain(self, listener: _Listener) -> bool:
        """Takes no client more, lets requests under way be answered, and ends the others.

        Whether all were answered in time.
        """
        listener.close(close_connections=False)
        for one in self._clients - self._busy:
            asyncio.ensure_future(one.close(1001, "the server is stopping"))  # noqa: RUF006
        until = time.monotonic() + self._limits.drain
        while self._clients and time.monotonic() < until:
            await asyncio.sleep(0.01)
        answered = not self._busy
        for one in list(self._clients):
            one.transport.abort()
        if not answered:
            self._batcher.drop()
        with contextlib.suppress(TimeoutError):  # of somebody who never said what they want
            await asyncio.wait_for(listener.wait_closed(), 1.0)
        await asyncio.to_thread(self._batcher.close)
        return answered

    def _before_talking(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answers what needs no websocket, and turns away whom nothing is said to."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return _text(HTTPStatus.OK, "OK\n")
        given = request.headers.get_all("Authorization")
        if not self._access.admits(given[0] if len(given) == 1 else None):
            self._metrics.turned_away()
            return _text(HTTPStatus.UNAUTHORIZED, "unauthorised\n", ("WWW-Authenticate", "Bearer"))
        if path == "/metrics":
            return _text(HTTPStatus.OK, self._metrics.text(), ("Content-Type", CONTENT_TYPE))
        if len(self._clients) >= self._limits.clients:
            self._metrics.turned_away()
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "too many clients: come again later\n")
        return None

    async def _talk(self, connection: ServerConnection) -> None:
        """Metadata first, then an answer to each message, in order."""
        if len(self._clients) >= self._limits.clients:  # of many that came at once
            self._metrics.turned_away()
            await connection.close(1013, "too many clients: come again later")
            return
        self._clients.add(connection)
        self._batcher.clients = len(self._clients)
        self._metrics.connected()
        try:
            with contextlib.suppress(ConnectionClosed):
                await connection.send(self._metadata)
                await self._answer_all(connection)
        finally:
            self._clients.discard(connection)
            self._busy.discard(connection)
            self._batcher.clients = len(self._clients)

    async def _answer_all(self, connection: ServerConnection) -> None:
        total = 0.0
        async for message in connection:
            started = time.perf_counter()
            self._busy.add(connection)
            outcome, answer = await self._answer(message, total)
            await connection.send(answer)
            self._busy.discard(connection)
            total = time.perf_counter() - started
            self._metrics.message(outcome, total)
            if self._stop.is_set():
                await connection.close(1001, "the server is stopping")

    async def _answer(self, message: Any, before: float) -> tuple[str, str | bytes]:
        """What a message gets: a binary frame with actions, or one line that says what is wrong."""
        try:
            return "answered", await self._act(message, before)
        except UserError as error:
            outcome = "failed" if isinstance(error, FailedError) else "refused"
            return outcome, one_line(str(error))[:_MOST_LETTERS]
        except Exception as error:  # of ours, and the server goes on
            log(f"qgf: warning: a message was not answered: {raised(error)}")
            return "failed", "the server failed to answer: see its log"

    async def _act(self, message: Any, before: float) -> bytes:
        if isinstance(message, str):
            raise UserError("message is a text frame: send a msgpack dictionary in a binary one")
        request = self._reader.read(protocol.decode(message))
        future = self._batcher.submit(request.program, request.rows)
        # One that is done is awaited too, so that others have a turn between a client's messages.
        chunks = await asyncio.wrap_future(future)
        timing = {"infer_ms": 1e3 * chunks.infer, "wait_ms": 1e3 * chunks.wait}
        if before:  # of the request before, as openpi's server says it
            timing["prev_total_ms"] = 1e3 * before
        return protocol.encode(
            {
                "actions": chunks.actions if request.batched else chunks.actions[0],
                "seed": request.seed,
                "server_timing": timing,
            }
        )


def _text(status: HTTPStatus, body: str, *more: tuple[str, str]) -> Response:
    data = body.encode()
    headers = Headers([("Content-Length", str(len(data))), ("Connection", "close"), *more])
    if "Content-Type" not in headers:
        headers["Content-Type"] = "text/plain; charset=utf-8"
    return Response(status.value, status.phrase, headers, data)
