"""The body of a request, as pairs: JSON, or a form with files."""

import asyncio
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
from starlette.exceptions import HTTPException

from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.server.limits import Limits, RefusedRequest, malformed, too_large

JSON, FORM = "application/json", "multipart/form-data"
FIELDS = ("image", "text")
MOST_PAIRS = 4096  # the largest value of --pairs; a longer list is not read to its end
MOST_PARTS = 1_000_000  # commas and brackets of a body in JSON: each may cost a hundred bytes
LARGE = 2**18  # bytes of a body that is parsed in a thread, so that other requests go on
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
    pairs: list[SentPair] = Field(min_length=1, max_length=MOST_PAIRS)


async def read_pairs(request: Request, limits: Limits) -> list[Pair]:
    """The pairs of a request in JSON or as a form.

    Raises:
      RefusedRequest: the request is malformed, or has too many pairs or too long a text.
    """
    if content_type(request) == FORM:
        pairs = await _form_pairs(request, limits)
    else:
        sent = await read_json(request, SentPairs, f"{JSON} or {FORM}")
        pairs = [Pair(pair.image, pair.text) for pair in sent.pairs]
    check_pairs(pairs, limits)
    return pairs


def content_type(request: Request) -> str:
    """The type of a request's body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request, kind: type[Body], types: str = JSON) -> Body:
    """The body of a request in JSON as a model; a mistake names the field.

    types: the types that the route accepts, for the message.
    """
    if content_type(request) != JSON:
        message = f"the body has to be {types}"
        raise RefusedRequest(415, "malformed", message, "content-type", closes=True)
    body = await request.body()
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_PARTS:
        raise too_large(f"the body has more than {MOST_PARTS:,} commas and brackets")
    if len(body) > LARGE:
        return await asyncio.to_thread(parsed, kind, body)
    return parsed(kind, body)


def parsed(kind: type[Body], body: bytes) -> Body:
    """The body as a model; a mistake names the field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "too_long":
            raise too_large("too many for one request", field) from None
        raise malformed(message, field, 400 if first["type"] == "json_invalid" else 422) from None


def check_pairs(pairs: Sequence[Pair], limits: Limits) -> None:
    """Refuses too many pairs, too long a text, and a text that is not Unicode."""
    if len(pairs) > limits.pairs:
        message = f"{len(pairs):,} pairs in one request; the limit is {limits.pairs:,}"
        raise too_large(message, "pairs")
    for number, pair in enumerate(pairs):
        field, text = f"pairs.{number}.text", pair.text or ""
        if len(text) > limits.characters:
            message = f"{len(text):,} characters; the limit is {limits.characters:,}"
            raise too_large(message, field)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise malformed("half of a surrogate pair is no text", field) from None


async def _form_pairs(request: Request, limits: Limits) -> list[Pair]:
    """The pairs of a form: as many files `image` as fields `text`, or only one of the two kinds."""
    most = (
        2 * limits.pairs + 2
    )  # more than are allowed, so that too many are noticed by their count
    form = request.form(max_files=most, max_fields=most, max_part_size=limits.body)
    try:
        async with form as parts:
            for name in parts:
                if name not in FIELDS:
                    raise malformed("unknown; a form has image and text", name)
            images = [await _file(part) for part in parts.getlist("image")]
            texts = [_words(part) for part in parts.getlist("text")]
    except HTTPException as error:
        if "Too many" in error.detail:
            raise too_large(error.detail, "pairs") from None
        raise malformed(error.detail, "", 400) from None
    except (UnicodeError, LookupError):
        raise malformed("a form is in UTF-8", "content-type", 400) from None
    if not images and not texts:
        raise malformed("the form has neither image nor text", "image")
    if images and texts and len(images) != len(texts):
        message = f"{len(images)} files and {len(texts)} texts; send an empty part for a gap"
        raise malformed(message, "image")
    gaps: Sequence[None] = [None] * max(len(images), len(texts))
    return [Pair(*pair) for pair in zip(images or gaps, texts or gaps, strict=True)]


async def _file(part: UploadFile | str) -> bytes | None:
    if isinstance(part, str):
        if part:
            raise malformed("has to be a file, not a text", "image")
        return None
    return await part.read() or None


def _words(part: UploadFile | str) -> str | None:
    if not isinstance(part, str):
        raise malformed("has to be a text, not a file", "text")
    return part or None
