"""Pictures that strangers send: few formats, few pixels, decoded in threads beside the device."""

import asyncio
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from cmaclip_jax import process
from cmaclip_jax.data.images import UnreadablePicture
from cmaclip_jax.data.pairs import Pair, PairReader, ReadPair
from cmaclip_jax.server.limits import Limits, RefusedRequest, too_large

# Pillow opens some other formats with programs of the system, such as Ghostscript. Some builds of
# Pillow cannot read all of these.
Image.init()
FORMATS = [
    name for name in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP") if name in Image.OPEN
]
TOGETHER = 4  # pairs that a thread reads before another may begin
THREADS = 4  # at most; each may hold the pixels of a picture as large as the limit


class PictureThreads:
    """Reads the pictures of requests in threads."""

    def __init__(self, limits: Limits):
        self.limits = limits
        threads = min(THREADS, process.usable_cores())
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    async def read(self, reader: PairReader, pairs: Sequence[Pair]) -> list[ReadPair]:
        """The pairs with their pictures read. A picture that cannot be read becomes a note.

        Raises:
          RefusedRequest: a picture has too many pixels. Then no picture is decoded.
        """
        opened = [self._opened(pair, number) for number, pair in enumerate(pairs)]
        if all(pair.image is None for pair in opened):
            return [reader.read(pair) for pair in opened]
        loop = asyncio.get_running_loop()
        parts = [
            loop.run_in_executor(self._threads, _read, reader, opened[start : start + TOGETHER])
            for start in range(0, len(opened), TOGETHER)
        ]
        try:
            return [pair for part in await asyncio.gather(*parts) for pair in part]
        finally:
            for part in parts:  # of a request that was given up
                part.cancel()

    def close(self) -> None:
        """Begins no further picture."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _opened(self, pair: Pair, number: int) -> Pair:
        """The pair with its picture opened, not decoded; without it if the format is another."""
        if not isinstance(pair.image, bytes):
            return pair
        try:
            image = Image.open(io.BytesIO(pair.image), formats=FORMATS)
        except Image.DecompressionBombError:
            raise self._too_large("", number) from None
        except Exception:  # Pillow's readers raise almost anything on a broken header
            return Pair(None, pair.text, UnreadablePicture.reason)
        if image.width * image.height > self.limits.pixels:
            raise self._too_large(f" of {image.width} x {image.height}", number)
        return Pair(image, pair.text)

    def _too_large(self, size: str, number: int) -> RefusedRequest:
        message = f"a picture{size} has too many pixels; the limit is {self.limits.pixels:,}"
        return too_large(message, f"pairs.{number}.image")


def _read(reader: PairReader, pairs: Sequence[Pair]) -> list[ReadPair]:
    return [_read_one(reader, pair) for pair in pairs]


def _read_one(reader: PairReader, pair: Pair) -> ReadPair:
    """Decodes the picture of a pair. A picture that cannot be decoded becomes a note."""
    try:
        return reader.read(pair)
    except MemoryError:
        raise
    except Exception:  # Pillow's readers raise almost anything on broken data
        return ReadPair(None, pair.text, UnreadablePicture.reason)
