"""A server inside the test: its application and its queue, without a socket."""

import asyncio
import base64
import contextlib
import io

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
