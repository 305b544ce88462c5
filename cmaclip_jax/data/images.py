"""Pictures to what CLIP's image tower expects: uint8 [S,S,3], resized and cut as in training."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from cmaclip_jax.errors import UserError

Picture = str | Path | bytes | Image.Image | np.ndarray


def clip_image(picture: Picture, size: int) -> np.ndarray:
    """The middle square of a picture: shortest side to `size` (bicubic), then the centre."""
    image = open_image(picture)
    width, height = image.size
    short = min(width, height)
    if not short:
        raise UserError(f"cannot read a picture of {width} x {height} pixels")
    # Floored, as the reference does it.
    resized = (int(size * width / short), int(size * height / short))
    if resized != image.size:
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def open_image(picture: Picture) -> Image.Image:
    """An RGB picture, upright as its camera meant it, from any of the forms that people have."""
    name = picture if isinstance(picture, str | Path) else type(picture).__name__
    try:
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8:
                raise ValueError(f"an array of {picture.dtype}; make it uint8, 0 to 255")
            picture = Image.fromarray(picture)
        elif isinstance(picture, bytes):
            picture = Image.open(io.BytesIO(picture))
        elif isinstance(picture, str | Path):
            picture = Image.open(picture)
        return ImageOps.exif_transpose(picture).convert("RGB")
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise UserError(f"cannot read the picture {name}: {error}") from error
