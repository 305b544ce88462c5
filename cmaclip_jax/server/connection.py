"""The HTTP server itself: limits on the head of a request, and an end that loses no request."""

import asyncio
import contextlib
import json
import signal
from asyncio import TimerHandle
from collections.abc import Callable, Iterator

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024  # of a request's head; uvicorn itself has no limit
LINGER = 1.0  # seconds for which an idle connection may still bring a request when the server stops


class Connection(HttpToolsProtocol):
    """An HTTP/1.1 connection.

    uvicorn would close idle connections at once when it stops. A request that is on its way then
    gets no answer. This class waits, and tells the client with each answer that the connection
    ends.

    head_seconds: from the first byte of a head to its last; also for the first byte of all.
    """

    head_seconds = 10.0
    _timer: TimerHandle | None = None
    _head_bytes = 0
    _reads_head = True  # also before the first request
    _ends = False

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._wait_for_head()
        if self._ends:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._reads_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, "Request Header Fields Too Large", "the headers are too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reads_head, self._head_bytes = True, 0
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._reads_head = False
        self._stop_waiting()
        super().on_headers_complete()
        if self._ends:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Ends the connection after its last request."""
        self._ends = True
        if self._is_idle():
            self.loop.call_later(LINGER, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self.head_seconds, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _head_is_late(self) -> None:
        if self._head_bytes:
            self._refuse(408, "Request Timeout", "the headers did not arrive in time")
        elif not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, status: int, phrase: str, message: str) -> None:
        """Answers a request whose head is not complete, and ends the connection."""
        if self.transport.is_closing():
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

    on_hangup: called on SIGHUP.
    """

    def __init__(self, config: uvicorn.Config, on_hangup: Callable[[], None]):
        super().__init__(config)
        self.on_hangup = on_hangup

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own version would end the process by the signal that it caught."""
        loop = asyncio.get_running_loop()
        not_here = (NotImplementedError, RuntimeError, ValueError)  # Windows, or another thread
        with contextlib.suppress(*not_here):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._stop)
            loop.add_signal_handler(signal.SIGHUP, self.on_hangup)
        yield

    def _stop(self) -> None:
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
        timeout_graceful_shutdown=int(deadline + LINGER + 4),
    )
    return Server(config, on_hangup)
