"""The HTTP server: limits on headers, and a shutdown that answers every accepted request."""

import asyncio
import contextlib
import json
import signal
from asyncio import TimerHandle
from collections.abc import Callable, Iterator

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024  # of a request's first line and headers; uvicorn has no limit
ACCEPTING = 10  # turns of the loop before the server stops to listen
CONNECTIONS = 2048  # at once; uvicorn answers others with 503
LINGER = 1.0  # seconds for which an idle connection may still bring a request when the server stops


class Connection(HttpToolsProtocol):
    """An HTTP/1.1 connection.

    uvicorn would close idle connections at once when it stops. A request that is on its way then
    gets no answer. This class waits, and tells the client with each answer that the connection
    ends.

    head_seconds: the time for the first line and the headers of a request. On a new connection it
        begins when the connection is made.
    """

    head_seconds = 10.0
    _timer: TimerHandle | None = None
    _head_bytes = 0  # parsed bytes of the first line and the headers
    _unread = 0  # bytes that arrived while the headers were incomplete
    _reads_head = True  # whether the headers are incomplete; True before the first request
    _ends = False  # set on the class when the server stops, so that new connections end, too

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._reads_head and not self.transport.is_closing():
            self._unread += len(data)
            self._check_head()
        elif self._is_idle() and self.cycle and self.timeout_keep_alive_task is None:
            # These bytes begin no request, so the timeout of an idle connection is set again.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reads_head, self._head_bytes, self._unread = True, 0, 0
        self._wait_for_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._check_head()
        self._reads_head = False
        if self.transport.is_closing():
            return
        super().on_headers_complete()
        if self._ends:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "Bad Request", msg)

    def shutdown(self) -> None:
        """Ends the connection after its last request."""
        self._ends = True
        if self._is_idle():
            self.loop.call_later(LINGER, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _check_head(self) -> None:
        """Refuses headers that are too large, by their parsed or by their unparsed bytes."""
        if max(self._head_bytes, self._unread) > HEAD_BYTES:
            self._refuse(431, "Request Header Fields Too Large", "the headers are too large")

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        is_asked = self._reads_head and (self._head_bytes or self._unread)
        if self._is_idle() and not is_asked and not self.transport.is_closing():
            self.transport.close()

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        if self._head_bytes or self._unread:
            self._refuse(408, "Request Timeout", "the headers did not arrive in time")
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, phrase: str, message: str) -> None:
        """Answers a request whose head is not complete, and ends the connection."""
        if self.transport.is_closing():
            return
        if self._reads_head and not self._is_idle():  # an earlier request waits for its answer
            self.cycle.keep_alive = False
            return
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class Server(uvicorn.Server):
    """A server that ends with status 0 when it is asked to stop.

    connection: the class of this server's connections. on_hangup: called on SIGHUP.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        connection: type[Connection],
        on_hangup: Callable[[], None],
    ):
        super().__init__(config)
        self.connection = connection
        self.on_hangup = on_hangup

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own version would end the process by the signal that it caught."""
        loop = asyncio.get_running_loop()
        # Windows has no such handlers, and other threads than the main one may not set them.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.stop)
            loop.add_signal_handler(signal.SIGHUP, self.on_hangup)
        yield

    async def shutdown(self, sockets=None) -> None:
        # The system would reset a connection that it has made and the loop has not accepted yet.
        # Timers run before the loop looks at its sockets, so it gets some turns to accept them.
        for _ in range(ACCEPTING):
            await asyncio.sleep(0)
        self.connection._ends = True
        await super().shutdown(sockets)

    def stop(self) -> None:
        """Stops in an orderly way, and at once when it is called again."""
        self.force_exit = self.should_exit  # the second signal ends at once
        self.should_exit = True


def make_server(app: Callable, deadline: float, on_hangup: Callable[[], None]) -> Server:
    """A server for an ASGI application."""
    connection = type("Connection", (Connection,), {"head_seconds": deadline})
    config = uvicorn.Config(
        app,
        http=connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(deadline + LINGER + 4),
    )
    return Server(config, connection, on_hangup)
