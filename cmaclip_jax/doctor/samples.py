"""A few records of a source, read to the end: whether what a run will need can be read here."""

import hashlib

import numpy as np

from cmaclip_jax.data.images import open_image
from cmaclip_jax.data.loading import read_file
from cmaclip_jax.data.records import RecordError, Source
from cmaclip_jax.errors import UserError


def read_some(source: Source, most: int) -> tuple[list[str], list[str]]:
    """(ids of up to `most` records, spread evenly; what is wrong with those that are bad)."""
    ids, wrong = [], []
    for index in np.unique(np.linspace(0, len(source) - 1, most).astype(int)):
        try:
            record = source[int(index)]
            ids.append(record.id)
            open_picture(record.image)
        except (RecordError, UserError) as error:
            wrong.append(f"number {index}: {error}")
    return ids, wrong


def open_picture(picture) -> None:
    """Reads and decodes what a record has as its picture.

    Raises:
      UserError: it cannot be.
    """
    if isinstance(picture, str):
        path, picture = picture, read_file(picture)
        if isinstance(picture, str):  # why there are no bytes
            raise UserError(picture if path in picture else f"{path}: {picture}")
    if picture is not None:
        open_image(picture)


def digest(names: list[str]) -> str:
    """A short name for some names: hosts that see other data have another."""
    return hashlib.blake2b("\n".join(names).encode(errors="replace"), digest_size=4).hexdigest()
