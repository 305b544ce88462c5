"""Pictures that strangers send: few formats, few pixels, decoded in threads beside the device."""

import asyncio
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from cmaclip_jax.data.images import UnreadablePicture
from cmaclip_jax.data.pairs import Pair, PairReader, ReadPair
from cmaclip_jax.server.limits import Limits, RefusedRequest

# Pillow opens some other formats with programs of the system, such as Ghostscript. Some builds of
# Pillow cannot read all of these.
Image.init()
FORMATS = [
    name
    for name in ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")
    if name in Image.OPEN
]
TOGETHER = 4  # pairs that a thread reads before another may begin


class PictureThreads:
    """Reads the pictures of requests in threads."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="pictures")

    async def read(self, reader: PairReader, pairs: Sequence[Pair]) -> list[ReadPair]:
        """The pairs with their pictures read; one that cannot be read is a note.

        Raises:
          RefusedRequest: a picture has too many pixels.
        """
        if all(pair.image is None for pair in pairs):
            return [reader.read(pair) for pair in pairs]
        loop = asyncio.get_running_loop()
        parts = [
            loop.run_in_executor(self._threads, self._read, reader, pairs, start)
            for start in range(0, len(pairs), TOGETHER)
        ]
        return [pair for part in await asyncio.gather(*parts) for pair in part]

    def close(self) -> None:
        """Lets the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, reader: PairReader, pairs: Sequence[Pair], start: int) -> list[ReadPair]:
        numbers = range(start, min(start + TOGETHER, len(pairs)))
        return [reader.read(self._checked(pairs[number], number)) for number in numbers]

    def _checked(self, pair: Pair, number: int) -> Pair:
        """The pair itself; without its picture if the format is not one of FORMATS."""
        if not isinstance(pair.image, bytes):
            return pair
        try:
            with Image.open(io.BytesIO(pair.image), formats=FORMATS) as image:
                width, height = image.size
        except Image.DecompressionBombError:
            raise self._too_large("", number) from None
        except Exception:  # Pillow raises whatever a format's reader meets in a broken header
            return Pair(None, pair.text, UnreadablePicture.reason)
        if width * height > self.limits.pixels:
            raise self._too_large(f" of {width} x {height}", number)
        return pair

    def _too_large(self, size: str, number: int) -> RefusedRequest:
        message = f"a picture{size} has too many pixels; the limit is {self.limits.pixels:,}"
        return RefusedRequest(413, "too large", message, f"pairs.{number}.image")
