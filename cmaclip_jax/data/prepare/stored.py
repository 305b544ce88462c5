"""A record as `cmaclip prepare` stores it: an example that TFDS reads, with a small JPEG."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from cmaclip_jax.data.images import UnreadablePicture, open_image, read_picture
from cmaclip_jax.data.records import Label, Record, RecordError
from cmaclip_jax.data.tfds_fields import HAS_IMAGE
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import UNKNOWN, Task

ORIENTATION = 0x0112  # the Exif entry for the orientation; 1 is upright


def make_features(tasks: Sequence[Task]) -> tfds.features.FeaturesDict:
    """The features of an example. Labels are nested, so that a task may have any name."""
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        HAS_IMAGE: tfds.features.Scalar(np.bool_),
        "text": tfds.features.Text(),
    }
    if tasks:
        features["labels"] = {task.name: _label_feature(task) for task in tasks}
    return tfds.features.FeaturesDict(features)


def _label_feature(task: Task):
    for name in task.classes:
        if not name or name.splitlines() != [name.strip()]:  # TFDS keeps a stripped line of each
            raise UserError(f"class {name!r} of {task.name!r} must be one line; rename it")
    label = tfds.features.ClassLabel(names=list(task.classes))
    return tfds.features.Sequence(label) if task.many else label


def to_example(record: Record, tasks: Sequence[Task], features) -> bytes:
    """The serialized example of a record whose picture is a JPEG. Its bytes are reproducible.

    A grey dot replaces a missing picture, since TFDS decodes every picture. An unknown label is
    -1, in many-label tasks a list of that; an empty list means that no class holds.
    """
    image: Any = record.image or _grey_dot()
    values = {
        "id": _writable(record.id),
        "image": io.BytesIO(image),
        HAS_IMAGE: record.image is not None,
        "text": _writable(record.text or ""),
    }
    if tasks:
        labels = record.labels
        values["labels"] = {task.name: _label(task, labels.get(task.name)) for task in tasks}
    raw = features.serialize_example(features.encode_example(values))
    return tf_example_pb2.Example.FromString(raw).SerializeToString(deterministic=True)


def _label(task: Task, label: Label) -> int | list[int]:
    names = (label,) if isinstance(label, str) else label
    if names is None:
        return [UNKNOWN] if task.many else UNKNOWN
    try:
        numbers = [task.classes.index(name) for name in names]
    except ValueError as error:
        raise RecordError(f"unknown class of {task.name}: {label!r}") from error
    return numbers if task.many else numbers[0]


def _writable(text: str) -> str:
    """The text with '?' for unpaired surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def _grey_dot() -> bytes:
    return _jpeg(Image.new("RGB", (1, 1), (128, 128, 128)), 75)


def shrink(picture: bytes | str | np.ndarray, size: int, quality: int) -> bytes:
    """The picture as an upright RGB JPEG whose shorter side has `size` pixels or fewer.

    Such a JPEG is returned unchanged. Raises RecordError if the picture cannot be read.
    """
    try:
        if isinstance(picture, str):
            picture = read_picture(picture)
        image = open_image(picture)
        if isinstance(picture, bytes) and _is_small_jpeg(picture, size):
            return picture
        short = min(image.size)
        if short > size:
            width, height = (max(1, round(side * size / short)) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return _jpeg(image, quality)
    except (UnreadablePicture, OSError, ValueError) as error:  # the last two: of Pillow's writer
        reason = getattr(error, "reason", UnreadablePicture.reason)
        raise RecordError(f"{reason}: {error}") from error


def _is_small_jpeg(picture: bytes, size: int) -> bool:
    """Whether the bytes of a readable picture are an upright RGB JPEG of this size or smaller."""
    image = Image.open(io.BytesIO(picture))
    if (image.format, image.mode) != ("JPEG", "RGB") or min(image.size) > size:
        return False
    return image.getexif().get(ORIENTATION, 1) == 1


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
