"""The limits of the server, and the refusal of a request that exceeds one."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of the server.

    batch: the largest number of pairs that are computed at once.
    wait: the seconds that a pair waits for others while the device is idle, at least.
    pairs: in one request. queue: the pairs of all requests that have no answer yet.
    deadline: the seconds in which a request is answered or refused.
    body: the bytes of a request. characters: of a text. pixels: of a picture.
    """

    batch: int = 32
    wait: float = 0.002
    pairs: int = 64
    queue: int = 1024
    deadline: float = 10.0
    body: int = 32 * 2**20
    characters: int = 10_000
    pixels: int = 50_000_000


class RefusedRequest(Exception):
    """A request that gets an answer of status 400 or more.

    reason: a word for the counter of refusals.
    field: the part of the request that the message is about, as 'pairs.0.image'.
    closes: whether the connection ends, because the rest of the request is not read.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        field: str = "",
        headers: Mapping[str, str] | None = None,
        closes: bool = False,
    ):
        super().__init__(message)
        self.status, self.reason, self.message, self.field = status, reason, message, field
        self.headers = dict(headers or {}) | ({"connection": "close"} if closes else {})

    @property
    def body(self) -> dict[str, str]:
        """The body of the answer."""
        return {"error": self.message} | ({"field": self.field} if self.field else {})


def busy(message: str, seconds: float) -> RefusedRequest:
    """503: the client may ask again after so many seconds."""
    return RefusedRequest(
        503, "busy", message, headers={"retry-after": str(max(1, round(seconds)))}
    )


def malformed(message: str, field: str, status: int = 422) -> RefusedRequest:
    """422, or another status: the server cannot understand the request."""
    return RefusedRequest(status, "malformed", message, field)


def too_large(message: str, field: str = "", closes: bool = False) -> RefusedRequest:
    """413: the request exceeds a limit."""
    return RefusedRequest(413, "too large", message, field, closes=closes)


def too_late(seconds: float) -> RefusedRequest:
    """504: the deadline has passed."""
    return RefusedRequest(504, "deadline", f"not answered within {seconds:g} s; ask again later")
