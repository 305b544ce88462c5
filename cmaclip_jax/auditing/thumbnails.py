"""Every picture of a source as a thumbnail, the only form of it that stays in memory.

Two thumbnails can be compared whatever the sizes and formats of their pictures. Pictures are read
in the order in which they are stored, so that a block of them is read once.
"""

from concurrent.futures import ThreadPoolExecutor

import jax
import ml_dtypes
import numpy as np
from PIL import Image

from cmaclip_jax.auditing.neighbours import Track
from cmaclip_jax.data.images import UnreadablePicture, open_image
from cmaclip_jax.data.records import RecordError, Source

SIZE = 24  # pixels along a side
GRID = 12  # of a descriptor, along a side
CENTRED = 0.95  # of each side, in the view without a border
FLAT = 2.0  # standard deviation, of 255, below which a picture shows nothing
READ_TOGETHER = 256  # pictures


def read_thumbnails(source: Source, track: Track) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N,SIZE,SIZE,3], and which rows have a picture that shows something, bool [N].

    A picture that is absent, cannot be read, or has one colour alone is no evidence. Its thumbnail
    is black.
    """
    thumbnails = np.zeros((len(source), SIZE, SIZE, 3), np.uint8)
    has = np.zeros(len(source), bool)
    chunks = getattr(source, "chunks", None)
    order = np.arange(len(source)) if chunks is None else np.argsort(chunks, kind="stable")
    starts = range(0, len(source), READ_TOGETHER)
    with ThreadPoolExecutor() as pool:
        for start in track(starts, "reading pictures", len(starts)):
            rows = order[start : start + READ_TOGETHER].tolist()
            for row, pixels in zip(
                rows, pool.map(lambda row: _thumbnail(source, row), rows), strict=True
            ):
                if pixels is not None and pixels.std() >= FLAT:
                    thumbnails[row], has[row] = pixels, True
    return thumbnails, has


def _thumbnail(source: Source, row: int) -> np.ndarray | None:
    try:
        picture = source[row].image
        if picture is None:
            return None
        return np.asarray(open_image(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    except (UnreadablePicture, RecordError):
        return None


def descriptors(thumbnails: np.ndarray, has: np.ndarray, view: str = "whole") -> np.ndarray:
    """Vectors of length 1, [N,GRID*GRID*3], whose products are correlations of pixels.

    They are bfloat16 where JAX runs on an accelerator, and float32 on a CPU.

    view: whole, mirrored, or centred (without a border, as a cropped copy lacks one). A row
    without a picture is zero.
    """
    kind = np.float32 if jax.default_backend() == "cpu" else ml_dtypes.bfloat16
    vectors = np.zeros((len(thumbnails), GRID * GRID * 3), kind)
    for start in range(0, len(thumbnails), READ_TOGETHER * 16):
        part = slice(start, start + READ_TOGETHER * 16)
        small = _viewed(thumbnails[part], view).reshape(-1, GRID * GRID * 3)
        small = small - small.mean(axis=1, keepdims=True)
        length = np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
        vectors[part] = np.where(has[part, None], small / length, 0)
    return vectors


def _halved(thumbnails: np.ndarray) -> np.ndarray:
    """float32 [N,GRID,GRID,3], the means of squares of pixels."""
    side = SIZE // GRID
    squares = thumbnails.reshape(-1, GRID, side, GRID, side, 3)
    return squares.mean(axis=(2, 4), dtype=np.float32)


def _viewed(thumbnails: np.ndarray, view: str) -> np.ndarray:
    if view == "mirrored":
        return _halved(thumbnails[:, :, ::-1])
    if view == "whole":
        return _halved(thumbnails)
    places = (SIZE - 1) / 2 + (np.arange(SIZE) - (SIZE - 1) / 2) * CENTRED
    sampling = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(SIZE))).astype(np.float32)
    means = sampling.reshape(GRID, SIZE // GRID, SIZE).mean(axis=1)  # sampled, then halved
    rows = np.tensordot(thumbnails.astype(np.float32), means, ([1], [1]))  # [N,S,3,GRID]
    return np.tensordot(rows, means, ([1], [1])).transpose(0, 2, 3, 1)  # [N,GRID,GRID,3]
