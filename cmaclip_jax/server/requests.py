"""The body of a request, as pairs: JSON, or a form with files."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from starlette.datastructures import UploadFile

from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.server.limits import Limits, RefusedRequest

JSON, FORM = "application/json", "multipart/form-data"
FIELDS = ("image", "text")
Body = TypeVar("Body", bound=BaseModel)


def decoded(value: Any) -> Any:
    """The bytes that a base64 string stands for."""
    if not isinstance(value, str):
        raise ValueError("an image is a base64 string, or null")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64; a path or an address is never read") from None


Base64 = Annotated[
    bytes, BeforeValidator(decoded), WithJsonSchema({"type": "string", "format": "byte"})
]


class SentPair(BaseModel):
    """A picture (base64 of a JPEG, PNG or WebP file) and a text. Either may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True)
    image: Base64 | None = None
    text: str | None = None


class SentPairs(BaseModel):
    """The pairs of a request, in order."""

    model_config = ConfigDict(extra="forbid", strict=True)
    pairs: list[SentPair] = Field(min_length=1)


async def read_pairs(request: Request, limits: Limits) -> list[Pair]:
    """The pairs of a request in JSON or as a form.

    Raises:
      RefusedRequest: the request is malformed, or has too many pairs.
    """
    if content_type(request) == FORM:
        pairs = await _form_pairs(request, limits)
    else:
        sent = parsed(SentPairs, await json_body(request))
        pairs = [Pair(pair.image, pair.text) for pair in sent.pairs]
    check_count(len(pairs), limits)
    return pairs


def content_type(request: Request) -> str:
    """The type of a request's body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(request: Request) -> bytes:
    """The body of a request that says it is JSON."""
    if content_type(request) != JSON:
        raise RefusedRequest(
            415, "malformed", f"the body has to be {JSON} or {FORM}", "content-type", closes=True
        )
    return await request.body()


def parsed(kind: type[Body], body: bytes) -> Body:
    """The body as a model; a mistake names the field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        status = 400 if first["type"] == "json_invalid" else 422
        raise RefusedRequest(status, "malformed", message, field) from None


def check_count(pairs: int, limits: Limits) -> None:
    """Refuses a request with too many pairs."""
    if pairs > limits.pairs:
        message = f"{pairs:,} pairs in one request; the limit is {limits.pairs:,}"
        raise RefusedRequest(413, "too large", message, "pairs")


async def _form_pairs(request: Request, limits: Limits) -> list[Pair]:
    """The pairs of a form: as many files `image` as fields `text`, or only one of the two kinds."""
    most = limits.pairs + 1  # one more than allowed, so that too many are noticed by their count
    form = request.form(max_files=most, max_fields=2 * most, max_part_size=limits.body)
    async with form as parts:
        for name in parts:
            if name not in FIELDS:
                raise RefusedRequest(422, "malformed", "unknown; a form has image and text", name)
        images = [await _file(part) for part in parts.getlist("image")]
        texts = [_words(part) for part in parts.getlist("text")]
    if not images and not texts:
        raise RefusedRequest(422, "malformed", "the form has neither image nor text", "image")
    if images and texts and len(images) != len(texts):
        message = f"{len(images)} files and {len(texts)} texts; send an empty part for a gap"
        raise RefusedRequest(422, "malformed", message, "image")
    gaps: Sequence[None] = [None] * max(len(images), len(texts))
    return [Pair(*pair) for pair in zip(images or gaps, texts or gaps, strict=True)]


async def _file(part: UploadFile | str) -> bytes | None:
    if isinstance(part, str):
        if part:
            raise RefusedRequest(422, "malformed", "has to be a file, not a text", "image")
        return None
    return await part.read() or None


def _words(part: UploadFile | str) -> str | None:
    if not isinstance(part, str):
        raise RefusedRequest(422, "malformed", "has to be a text, not a file", "text")
    return part or None
