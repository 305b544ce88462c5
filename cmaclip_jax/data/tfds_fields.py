"""Which features of a TFDS data set are picture, text and labels; and how to read them.

A serialized example is parsed as a protocol buffer. That takes a tenth of the time of
`info.features` and gives the same values.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from tensorflow_datasets.proto import tf_example_pb2

from cmaclip_jax.data.records import Label
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import Task

# The name of the data sets that `cmaclip prepare` writes. In them an empty list of labels means
# that no class holds; in other data sets it counts as an unknown label.
PREPARED = "cmaclip"
MANIFEST = "manifest.json"  # describes the data that they were made from, and how
HAS_IMAGE = "has_image"  # their feature that is false if the picture is only a placeholder

# Text features that name a record. Texts such as 'tabby_17.jpg' would reveal the label.
NO_WORDS = re.compile(r"(.*[/_])?(id|uid|key|file|file_?name|path|url|uri|md5|sha\d*|hash)")


@dataclasses.dataclass(frozen=True)
class LabelField:
    """The feature with the labels of a task.

    many: whether it is a list of classes.
    texts: whether its labels are stored as text. The classes are known once all were read.
    none_is_known: whether an empty list says that no class holds.
    """

    name: str
    key: str
    classes: tuple[str, ...] = ()
    many: bool = False
    texts: bool = False
    none_is_known: bool = False

    @property
    def task(self) -> Task:
        """The task that it has the labels of."""
        return Task(self.name, self.classes, self.many)

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """The classes, to look one up."""
        return frozenset(self.classes)

    def read(self, features) -> Label:
        """The label of one example. If it is stored as text, it may be none of the classes."""
        feature = features[self.key]
        if self.texts:
            values = feature.bytes_list.value
            return (values[0].decode("utf-8", "replace") or None) if values else None
        values = feature.int64_list.value
        if any(value < 0 for value in values) or not (values or self.none_is_known):
            return None
        if self.many:
            return tuple(self.classes[value] for value in values)
        return self.classes[values[0]]


@dataclasses.dataclass(frozen=True)
class Fields:
    """The features to read, by their keys in a serialized example ('' or () for none).

    pixels: where the picture is not encoded, how TFDS reads that feature and no other.
    """

    image: str
    pixels: tfds.features.FeaturesDict | None
    texts: tuple[str, ...]
    labels: tuple[LabelField, ...]
    identity: str
    has_image: bool

    def read_image(self, raw: bytes, features) -> bytes | np.ndarray | None:
        """The picture as it is stored: encoded, or an array if the feature is a tensor."""
        if not self.image or (self.has_image and not _first(features[HAS_IMAGE].int64_list)):
            return None
        if self.pixels is None:
            return _first(features[self.image].bytes_list) or None
        return _read_pixels(raw, self.image, self.pixels)

    def read_text(self, features) -> str | None:
        """The text, joined from several features if need be."""
        parts = (_first(features[key].bytes_list) or b"" for key in self.texts)
        return " ".join(p.decode("utf-8", "replace") for p in parts if p) or None

    def read_id(self, features) -> str | None:
        """The example's own name, where it has one."""
        if not self.identity:
            return None
        feature = features[self.identity]
        value = _first(feature.bytes_list)
        if value is not None:
            return value.decode("utf-8", "replace")
        number = _first(feature.int64_list)
        return None if number is None else str(number)


def parse(raw: bytes):
    """The features of a serialized example, by key."""
    return tf_example_pb2.Example.FromString(raw).features.feature


def find_fields(info, data: ConfigDict) -> Fields:
    """The features that `data.image`, `data.text` and `data.labels` name, or guesses."""
    known = dict(_leaves(info.features))
    image = _find_image(known, data.image)
    labels = tuple(_find_labels(known, _names(data.labels), info.name == PREPARED))
    taken = {image, *(field.key for field in labels)}
    texts = _find_texts(known, data.text, taken)
    if not image and not texts:
        raise UserError(
            f"neither a picture nor words among the features {sorted(known)}; name them with "
            "data.image or data.text"
        )
    return Fields(
        image=image,
        pixels=_pixels_alone(image, known.get(image)),
        texts=texts,
        labels=labels,
        identity="id" if "id" in known else "",
        has_image=HAS_IMAGE in known and info.name == PREPARED,
    )


def _first(values):
    return values.value[0] if values.value else None


def _leaves(features, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every feature by its key, also in nested dictionaries, in the order of the keys."""
    for name in sorted(features):
        if isinstance(features[name], tfds.features.FeaturesDict):
            yield from _leaves(features[name], f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", features[name]


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    return tuple(name.strip() for name in names if name.strip())


def _check_known(known: dict, name: str, field: str) -> None:
    if name not in known:
        raise UserError(f"no feature {name!r} for {field}; this data set has {sorted(known)}")


def _find_image(known: dict, name: str) -> str:
    if name == "none":
        return ""
    if name:
        _check_known(known, name, "data.image")
        feature = known[name]
        if not isinstance(feature, tfds.features.Image) and feature.np_dtype != np.uint8:
            raise UserError(f"feature {name!r} is no picture; data.image needs an Image feature")
        return name
    pictures = [key for key, feature in known.items() if type(feature) is tfds.features.Image]
    if "image" in pictures or len(pictures) < 2:
        return "image" if "image" in pictures else "".join(pictures)
    raise UserError(f"several pictures, {pictures}; name one with data.image")


def _find_texts(known: dict, names: str, taken: set[str]) -> tuple[str, ...]:
    if names == "none":
        return ()
    chosen = _names(names)
    for name in chosen:
        _check_known(known, name, "data.text")
        if not isinstance(known[name], tfds.features.Text):
            raise UserError(f"feature {name!r} is no Text; data.text needs Text features")
    return chosen or tuple(
        key
        for key, feature in known.items()
        if isinstance(feature, tfds.features.Text)
        and key not in taken
        and not NO_WORDS.fullmatch(key.lower())
    )


def _find_labels(known: dict, names: tuple[str, ...], prepared: bool) -> Iterator[LabelField]:
    """A field for every name, or for all class labels. Labels in text have no classes yet."""
    classes = {key: _classes(feature) for key, feature in known.items()}
    labels = [key for key, value in classes.items() if value and (value[1] or len(value[0]) > 1)]
    by_task = _task_names(dict.fromkeys([*labels, *(name for name in names if name in known)]))
    for name in names or by_task:
        _check_known({**known, **by_task}, name, "data.labels")
        key = by_task.get(name, name)
        task = next((task for task, of in by_task.items() if of == key), name.replace("/", "."))
        if classes[key]:
            yield LabelField(task, key, *classes[key], none_is_known=prepared)
        elif isinstance(known[key], tfds.features.Text):
            yield LabelField(task, key, texts=True)
        else:
            raise UserError(f"feature {name!r} holds no labels; data.labels needs others")


def _task_names(keys: Iterable[str]) -> dict[str, str]:
    """{task: key}. A task is called by the last part of its key if that is unique, else by all."""
    last = [key.rsplit("/", 1)[-1] for key in keys]
    return {
        name if last.count(name) == 1 else key.replace("/", "."): key
        for key, name in zip(keys, last, strict=True)
    }


def _classes(feature) -> tuple[tuple[str, ...], bool] | None:
    """A label feature's classes and whether several may hold; None for other features."""
    many = isinstance(feature, tfds.features.Sequence)
    inner = feature.feature if many else feature
    if not isinstance(inner, tfds.features.ClassLabel) or not inner.num_classes:
        return None
    return tuple(inner.names), many


def _pixels_alone(key: str, feature) -> tfds.features.FeaturesDict | None:
    """The features with a tensor picture as the only one; None if the picture is encoded."""
    if feature is None or isinstance(feature, tfds.features.Image):
        return None
    for name in reversed(key.split("/")):
        feature = tfds.features.FeaturesDict({name: feature})
    return feature


def _read_pixels(raw: bytes, key: str, alone: tfds.features.FeaturesDict) -> np.ndarray:
    """A picture stored as a tensor: uint8 [H,W,3]."""
    pixels = alone.deserialize_example_np(raw)
    for name in key.split("/"):
        pixels = pixels[name]
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
