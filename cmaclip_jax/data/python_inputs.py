"""Pictures and texts that Python users pass, as plain lists.

A user may pass a list, tuple, iterator, array, or a column of any data frame; no library for data
frames is imported. A missing element, such as NaN, becomes None.
"""

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmaclip_jax.data.images import Picture, picture_array
from cmaclip_jax.errors import UserError

NO_VALUES = ("NAType", "NaTType")  # the types of missing values in data frames


def list_pictures(pictures: Iterable | None) -> list[Picture | None] | None:
    """Pictures as `clip_image` takes them. A missing one is None, as is a missing list.

    Raises:
      UserError: the argument is not a list of pictures, or one of its elements is not a picture.
    """
    if pictures is None:
        return None
    shape: tuple = getattr(pictures, "shape", ())
    if isinstance(pictures, Image.Image) or (len(shape) == 3 and shape[-1] in (1, 3, 4)):
        raise UserError("that is one picture; give a list, also of one: [picture]")
    if len(shape) == 2:
        raise UserError(f"pictures of shape {tuple(shape)}: give a list of pictures")
    return [_picture(item, number) for number, item in enumerate(_items(pictures))]


def list_texts(texts: Iterable | None) -> list[str | None] | None:
    """Texts. A missing one is None, as is a missing list.

    Raises:
      UserError: the argument is not a list of texts, or one of its elements is not a text.
    """
    if texts is None:
        return None
    shape: tuple = getattr(texts, "shape", ())
    if len(shape) > 1:
        raise UserError(f"texts of shape {tuple(shape)}: give one column of texts")
    return [_text(item, number) for number, item in enumerate(_items(texts))]


def without_missing(items: list | None, what: str) -> list:
    """The same list. Raises UserError if the list or one of its elements is missing."""
    if items is None:
        raise UserError(f"give a list of {what}s")
    for number, item in enumerate(items):
        if item is None:
            raise UserError(f"{what} number {number} is absent; leave it out")
    return items


def _items(items: Iterable) -> list:
    if isinstance(items, str | bytes | Path):
        raise UserError("give a list, also of one")
    if isinstance(items, Mapping | Set) or not isinstance(items, Iterable):
        raise UserError(f"give a list, not a {type(items).__name__}")
    return list(items)


def _picture(item: Any, number: int) -> Picture | None:
    if _is_absent(item) or (isinstance(item, str) and not item):
        return None
    if isinstance(item, bytearray | memoryview):
        return bytes(item)
    if isinstance(item, str | bytes | Path | Image.Image):
        return item
    if not hasattr(item, "__array__"):
        raise UserError(
            f"picture number {number} is a {type(item).__name__}; a picture is a path, bytes, a "
            "PIL image or an array [H,W,3]"
        )
    try:
        return picture_array(np.asarray(item))
    except UserError as error:
        raise UserError(f"picture number {number}: {error}") from error


def _text(item: Any, number: int) -> str | None:
    if _is_absent(item):
        return None
    if not isinstance(item, str):
        raise UserError(
            f"text number {number} is a {type(item).__name__}; a text is a str, or None where "
            "there is none"
        )
    return str(item)


def _is_absent(item: Any) -> bool:
    if isinstance(item, float | np.floating):
        return bool(np.isnan(item))
    return item is None or type(item).__name__ in NO_VALUES
