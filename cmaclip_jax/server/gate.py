"""The checks that every request passes first: its token, its size and its deadline."""

import asyncio
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from cmaclip_jax.server.limits import RefusedRequest, too_large, too_late
from cmaclip_jax.server.service import Service, unauthorized

OPEN = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")  # without a token
OPEN_FOLDER = "/docs-files/"
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
INTERNAL = json.dumps({"error": "internal error; the server's log has the reason"}).encode()
EXPLAIN, EXPLAIN_SECONDS = "/v1/explain", 120.0  # its programs are compiled at the first request


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app: Callable, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = GuardedRequest(scope, receive, send, self.service)
        try:
            refusal = request.refusal()
            if refusal:
                await request.refuse(refusal)
                return
            async with asyncio.timeout(request.seconds):
                await self.app(scope, request.receive, request.send)
        except TimeoutError:
            await request.refuse(request.late())
        except Exception:
            traceback.print_exc(file=sys.stderr)
            await request.answer(500, INTERNAL)
        finally:
            request.end()


class GuardedRequest:
    """One request: counts the bytes that arrive, and keeps the status of the answer."""

    def __init__(self, scope, receive: Receive, send: Send, service: Service):
        self.scope, self.service = scope, service
        self.status = 0
        self._receive, self._send = receive, send
        self._headers = dict(scope["headers"])
        self._received = 0
        has_body = b"content-length" in self._headers or b"transfer-encoding" in self._headers
        self._is_complete = not has_body
        self._start = time.monotonic()
        limit = service.limits.deadline
        self.seconds = max(limit, EXPLAIN_SECONDS) if scope["path"] == EXPLAIN else limit

    def refusal(self) -> RefusedRequest | None:
        """The reason to refuse the request before its body is read; None if there is none."""
        path = self.scope["path"]
        is_open = path in OPEN or path.startswith(OPEN_FOLDER)
        if not is_open and not self.service.allows(self._header(b"authorization")):
            return unauthorized()
        length = self._header(b"content-length")
        if length.isdecimal() and int(length[:18]) > self.service.limits.body:
            return self._too_large()
        return None

    async def receive(self) -> Message:
        """The next part of the body.

        Raises:
          RefusedRequest: the body is too large, or the server holds too many bytes.
        """
        message = await self._receive()
        size = len(message.get("body", b""))
        self._received += size
        self._is_complete = not message.get("more_body", False)
        if self._received > self.service.limits.body:
            self.service.received += size
            raise self._too_large()
        self.service.receive(size)
        return message

    def late(self) -> RefusedRequest:
        """Which deadline has passed: that of the body, or that of the answer."""
        if self._is_complete:
            return too_late(self.seconds)
        late = f"the body did not arrive within {self.seconds:g} s"
        return RefusedRequest(408, "slow", late, closes=True)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if not self._is_complete:  # the rest of the body is not read
                ends = (b"connection", b"close")
                others = [header for header in message.get("headers", ()) if header != ends]
                message = {**message, "headers": [*others, ends]}
        await self._send(message)

    async def refuse(self, refusal: RefusedRequest) -> None:
        """Answers with a refusal."""
        self.service.metrics.refusals.labels(refusal.reason).inc()
        await self.answer(refusal.status, json.dumps(refusal.body).encode(), refusal.headers)

    async def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answers in JSON, unless an answer has begun."""
        if self.status:
            return
        headers = {"content-type": "application/json", "content-length": str(len(body))} | (
            headers or {}
        )
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": encoded})
        await self.send({"type": "http.response.body", "body": body})

    def end(self) -> None:
        """Counts the request under its route, or under 'other' if it matches no route."""
        self.service.received -= self._received
        route = getattr(self.scope.get("route"), "path", "other")
        self.service.metrics.requests.labels(route, self.status).inc()
        self.service.metrics.seconds.labels(route).observe(time.monotonic() - self._start)

    def _header(self, name: bytes) -> str:
        return self._headers.get(name, b"").decode("latin-1")

    def _too_large(self) -> RefusedRequest:
        message = f"the body is too large; the limit is {self.service.limits.body:,} bytes"
        return too_large(message, closes=True)
