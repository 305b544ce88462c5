"""The fast way for what most pictures are: plain upright JPEGs, decoded inside tf.data.

TensorFlow decodes only the window that is wanted, and at a half, a quarter or an eighth of
the size where that is enough; many threads at once, without Python. Whatever is not plain
goes through Pillow instead (images.py), which knows everything but is slower.
"""

import io
import struct

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

RATIOS = (1, 2, 4, 8)  # by which libjpeg can shrink while it decodes
SHRINKS = 1.25  # from here on a picture is made smaller, and is smoothed for that
FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive
NO_FRAME = {0xC4, 0xC8, 0xCC}  # tables, among the numbers of frames


def plain_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a whole 8-bit grey or YCbCr JPEG that stands upright; else None."""
    if content[:2] != b"\xff\xd8" or content.rfind(b"\xff\xd9", -64) < 0:
        return None
    place, end = 2, len(content) - 9
    while place < end:
        if content[place] != 0xFF:
            return None
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            bits, height, width, parts = struct.unpack_from(">BHHB", content, place + 4)
            plain = marker in FRAMES and bits == 8 and parts in (1, 3) and height and width
            return (height, width) if plain else None
        (length,) = struct.unpack_from(">H", content, place + 2)
        if marker == 0xE1 and content[place + 4 : place + 8] == b"Exif" and turned(content):
            return None
        place += 2 + length
    return None


def turned(content: bytes) -> bool:
    """Whether a picture's Exif says that it must be turned to stand upright."""
    try:
        return Image.open(io.BytesIO(content)).getexif().get(ExifTags.Base.Orientation, 1) != 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True  # whoever reads it with care will say what is wrong


def decoder_number(windows, size: int):
    """Which of the decoders suits each window [R,4] for pictures of `size`: int32 [R].

    0 cuts the window and enlarges it, 1 cuts and shrinks it; the others shrink while decoding.
    """
    room = windows[:, 2:].min(axis=1) / size
    ratio = np.searchsorted(RATIOS, room, side="right") - 1
    return np.where(ratio > 0, ratio + 1, room > SHRINKS).astype(np.int32)


def decode_all(rows, finished, size: int):
    """Pictures u8 [R,size,size,3]: a row's JPEG, or what is at its place among the finished ones.

    rows: content, window, number, place and mirrored of each; without content it has no JPEG.
    """

    def one(row):
        image = tf.cond(
            tf.equal(row["content"], b""),
            lambda: finished[row["place"]],
            lambda: decode(row["content"], row["window"], row["number"], size),
        )
        # Row by row: to choose between a batch and its mirror image takes as long as decoding.
        return tf.cond(row["mirrored"], lambda: tf.reverse(image, [1]), lambda: image)

    spec = tf.TensorSpec((size, size, 3), tf.uint8)
    return tf.map_fn(one, rows, fn_output_signature=spec)


def decode(content, window, number, size: int):
    """One window (top, left, height, width) of a JPEG as u8 [size,size,3]."""

    def cut(antialias: bool):
        image = tf.io.decode_and_crop_jpeg(content, window, 3, dct_method="INTEGER_FAST")
        if not antialias:
            image = tf.cast(image, tf.float32)  # which TensorFlow enlarges faster than bytes
        return tf.image.resize(image, (size, size), antialias=antialias)

    def shrunk(ratio: int):
        """Decoded small, and sampled where the window lies between the smaller pixels."""
        image = tf.io.decode_jpeg(content, 3, ratio=ratio, dct_method="INTEGER_FAST")
        corner, shape = tf.split(tf.cast(window, tf.float32) / ratio, 2)
        scale = size / shape
        return tf.raw_ops.ScaleAndTranslate(
            images=image[None],
            size=(size, size),
            scale=scale,
            translation=-corner * scale,
            kernel_type="triangle",
            antialias=True,
        )[0]

    decoders = [lambda: cut(False), lambda: cut(True)]
    decoders += [lambda ratio=ratio: shrunk(ratio) for ratio in RATIOS[1:]]
    image = tf.switch_case(number, decoders)
    return tf.ensure_shape(tf.cast(image + 0.5, tf.uint8), (size, size, 3))
