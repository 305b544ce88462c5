"""A server inside the test: its application and its queue, without a socket."""

import asyncio
import base64
import contextlib
import io
import json

import httpx
import numpy as np
from PIL import Image

from cmaclip_jax.server.application import make_app
from cmaclip_jax.server.limits import Limits
from cmaclip_jax.server.served_run import ServedRun
from cmaclip_jax.server.service import Service


@contextlib.asynccontextmanager
async def opened(classifier, limits=None, tokens=(), ready=True):
    """`(client, service)` for a classifier."""
    limits = limits or Limits()
    service = Service(ServedRun(classifier, limits.batch), limits, "shop", tokens)
    service.is_ready = ready
    filling = asyncio.create_task(service.batcher.run())
    transport = httpx.ASGITransport(make_app(service))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, service
    finally:
        filling.cancel()
        service.close()


def png(seed: int, side: int = 24) -> bytes:
    """A random picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def pair_json(image: bytes | None = None, text: str | None = None) -> dict:
    """A pair as a client sends it."""
    sent = {} if image is None else {"image": base64.b64encode(image).decode()}
    return sent | ({} if text is None else {"text": text})


PAIRS = [
    (png(0), "a red hat"),
    (png(1, side=70), "blue mug, striped"),
    (png(2), None),
    (None, "two green bags"),
    (None, None),
    (b"no picture at all", "a red hat"),
    (png(3), "ü \N{SNOWMAN} 你好"),
    (png(4), "words " * 100),
]


def as_json(pair):
    """The answers of Python to a pair, as JSON has them."""
    tasks = {
        task: {
            name: getattr(answer, name) for name in ("label", "probability", "accepted", "weights")
        }
        for task, answer in pair.items()
    }
    return json.loads(json.dumps({"note": next(iter(pair.values())).note, "answers": tasks}))


def serve(classifier, test, **settings):
    """Runs `test(client, service)`."""

    async def inside():
        async with opened(classifier, **settings) as (client, service):
            return await test(client, service)

    return asyncio.run(inside())
