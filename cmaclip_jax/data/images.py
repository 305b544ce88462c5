"""Pictures of any format as CLIP's image tower expects them: upright, RGB, uint8 [S,S,3]."""

import io
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from cmaclip_jax.data.storage import EMBEDDED, read_file, why_unreadable
from cmaclip_jax.errors import UserError

Picture: TypeAlias = str | Path | bytes | Image.Image | np.ndarray
# Pillow warns from 89 megapixels on. From 178 megapixels on it raises an error, which stays.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
LONG = 8  # a picture longer than this many times its shorter side is resized in part
WHITE = 255
SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")


class UnreadablePicture(UserError):
    """A picture that cannot be opened. `reason` is what the lists of bad records say of it."""

    reason = "unreadable picture"


class MissingPicture(UnreadablePicture):
    """A picture whose file cannot be read."""

    reason = "missing picture"


def clip_image(picture: Picture, size: int) -> np.ndarray:
    """CLIP's transform: the shorter side resized to `size` (bicubic), then the middle square."""
    if isinstance(picture, np.ndarray):
        picture = picture_array(picture)
        if picture.shape == (size, size, 3):
            return picture
    image = open_image(picture)
    width, height = image.size
    short = min(width, height)
    # Rounded down, as in the reference.
    resized = (int(size * width / short), int(size * height / short))
    left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
    if max(resized) > LONG * size:  # resized as a whole it could fill the memory
        across, down = width / resized[0], height / resized[1]
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BICUBIC)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def window_image(image: Image.Image, window, size: int) -> np.ndarray:
    """A window (top, left, height, width) of a picture as uint8 [size,size,3]."""
    top, left, height, width = map(int, window)
    box = (left, top, left + width, top + height)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def read_picture(path: str | Path) -> bytes:
    """The bytes of a picture: of a file, on a local disk or in a bucket, or from inside a table.

    Raises:
      MissingPicture: there is no such file, or it cannot be read.
    """
    try:
        if EMBEDDED.fullmatch(str(path)):
            from cmaclip_jax.data.arrow_tables import embedded_picture  # imports pyarrow

            return embedded_picture(str(path))
        return read_file(str(path))
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise MissingPicture(f"cannot read the picture {path}: {why_unreadable(error)}") from error


def open_image(picture: Picture) -> Image.Image:
    """A picture in any of the forms of `Picture`, as RGB and turned the right way up.

    Raises:
      UnreadablePicture: it is not a picture, or its file is missing.
    """
    name = picture if isinstance(picture, str | Path) else type(picture).__name__
    if isinstance(picture, str | Path):
        picture = read_picture(picture)
    try:
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture_array(picture))
        elif isinstance(picture, bytes):
            picture = Image.open(io.BytesIO(picture))
        image = _eight_bits(ImageOps.exif_transpose(picture)).convert("RGB")
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise UnreadablePicture(f"cannot read the picture {name}: {error}") from error
    if not min(image.size):
        raise UnreadablePicture(f"cannot read the picture {name}: it has {image.size} pixels")
    return image


def picture_array(pixels: np.ndarray) -> np.ndarray:
    """Pixels of any type as uint8, 0 to 255: [H,W], [H,W,3] or [H,W,4].

    Floats from 0 to 1 are scaled; floats from 0 to 255 are rounded.
    """
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)):
        raise UnreadablePicture(
            f"an array of shape {pixels.shape} is no picture; let it be [H,W,3], the colours last"
        )
    if pixels.dtype == np.uint8 or not pixels.size:
        return pixels.astype(np.uint8)
    if pixels.dtype.kind not in "iuf":
        raise UnreadablePicture(
            f"an array of {pixels.dtype} is no picture; make it uint8, 0 to 255"
        )
    least, most = float(pixels.min()), float(pixels.max())
    if not (least >= 0 and most <= WHITE):
        raise UnreadablePicture(
            f"an array of numbers from {least:g} to {most:g} is no picture; let them lie between 0 "
            "and 255, or between 0 and 1"
        )
    scale = WHITE if pixels.dtype.kind == "f" and most <= 1 else 1
    return np.rint(pixels * scale).astype(np.uint8)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey pictures to 8 bits, since Pillow would clip them at 255."""
    if image.mode not in SIXTEEN_BITS:
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
