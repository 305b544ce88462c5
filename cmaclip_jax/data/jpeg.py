"""Plain upright JPEGs, which most pictures are, decoded fast by TensorFlow.

TensorFlow decodes the cropped window alone, and at a half, a quarter or an eighth of its size
where that is enough. It uses many threads and no Python. Pillow (images.py) opens all other
pictures; it is slower.
"""

import functools
import io
import struct

import numpy as np
import tensorflow as tf
from PIL import ExifTags, Image

RATIOS = (1, 2, 4, 8)  # by which libjpeg can shrink while it decodes
SHRINKS = 1.25  # times the wanted size: a window larger than this is smoothed while it shrinks
FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive
NO_FRAME = {0xC4, 0xC8, 0xCC}  # tables, among the numbers of frames


def plain_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a complete, upright JPEG in 8-bit grey or YCbCr; None for others."""
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
        if marker == 0xE1 and content[place + 4 : place + 8] == b"Exif" and _is_turned(content):
            return None
        place += 2 + length
    return None


def _is_turned(content: bytes) -> bool:
    """Whether Exif says that the picture has to be turned to be upright."""
    try:
        return Image.open(io.BytesIO(content)).getexif().get(ExifTags.Base.Orientation, 1) != 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True  # Pillow opens the file later, and reports what is wrong


def decoder_number(windows, size: int):
    """The fastest decoder for each window [R,4] and pictures of `size`: int32 [R].

    Decoder 0 crops and enlarges, 1 crops and shrinks; the others shrink while they decode.
    """
    room = windows[:, 2:].min(axis=1) / size
    ratio = np.searchsorted(RATIOS, room, side="right") - 1
    return np.where(ratio > 0, ratio + 1, room > SHRINKS).astype(np.int32)


def decode_all(rows, finished, size: int):
    """The pictures of a batch, u8 [R,size,size,3].

    Args:
      rows: of every row its JPEG `content`, the `window` to crop, the `number` of the decoder,
        whether it is `mirrored`, and its `place` among `finished`, which counts if `content` is
        empty.
      finished: pictures that need no decoding, u8 [F,size,size,3].
    """

    def one(row):
        image = tf.cond(
            tf.equal(row["content"], b""),
            lambda: finished[row["place"]],
            lambda: decode(row["content"], row["window"], row["number"], size),
        )
        # For each row alone: mirroring the batch and choosing takes as long as decoding it.
        return tf.cond(row["mirrored"], lambda: tf.reverse(image, [1]), lambda: image)

    spec = tf.TensorSpec((size, size, 3), tf.uint8)
    return tf.map_fn(one, rows, fn_output_signature=spec)


def decode(content, window, number, size: int):
    """A window (top, left, height, width) of a JPEG as u8 [size,size,3], in TensorFlow's graph."""

    def cut(antialias: bool):
        image = tf.io.decode_and_crop_jpeg(content, window, 3, dct_method="INTEGER_FAST")
        if not antialias:
            image = tf.cast(image, tf.float32)  # TensorFlow enlarges float32 faster than uint8
        return tf.image.resize(image, (size, size), antialias=antialias)

    def shrunk(ratio: int):
        """The window of an image decoded at 1/ratio of its size, with exact fractional edges."""
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

    decoders: list = [lambda: cut(False), lambda: cut(True)]
    decoders += [lambda ratio=ratio: shrunk(ratio) for ratio in RATIOS[1:]]
    image = tf.switch_case(number, decoders)
    return tf.ensure_shape(tf.cast(image + 0.5, tf.uint8), (size, size, 3))


def decode_one(content: bytes, window, number: int, size: int) -> np.ndarray | None:
    """The pixels that `decode` makes inside tf.data; None where TensorFlow refuses the JPEG."""
    try:
        decoder = _compiled_decoder(size)
        return decoder(tf.constant(content), tf.constant(window), tf.constant(number)).numpy()
    except tf.errors.OpError:
        return None


@functools.cache
def _compiled_decoder(size: int):
    signature = [tf.TensorSpec([], tf.string), tf.TensorSpec([4], tf.int32)]
    signature += [tf.TensorSpec([], tf.int32)]
    return tf.function(functools.partial(decode, size=size), input_signature=signature)
