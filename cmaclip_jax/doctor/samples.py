"""A few records of a source, read to the end: whether what a run will need can be read here."""

import hashlib

import numpy as np

from cmaclip_jax.data.images import open_image
from cmaclip_jax.data.records import RecordError, Source
from cmaclip_jax.errors import UserError


def read_some(source: Source, most: int) -> tuple[list[str], list[str]]:
    """(ids of up to `most` records, spread evenly; what is wrong with those that are bad)."""
    ids, wrong = [], []
    for index in np.unique(np.linspace(0, len(source) - 1, most).astype(int)):
        try:
            record = source[int(index)]
            ids.append(record.id)
            if record.image is not None:
                open_image(record.image)
        except (RecordError, UserError) as error:
            wrong.append(f"number {index}: {error}")
    return ids, wrong


def digest(names: list[str]) -> str:
    """A short name for some names: hosts that see other data have another."""
    return hashlib.blake2b("\n".join(names).encode(errors="replace"), digest_size=4).hexdigest()
