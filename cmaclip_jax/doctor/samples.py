"""Reads a few records of a source, to check that this host can read what a run needs."""

import hashlib

import numpy as np

from cmaclip_jax.data.images import open_image
from cmaclip_jax.data.records import RecordError, Source
from cmaclip_jax.errors import UserError


def read_some(source: Source, most: int) -> tuple[list[str], list[str]]:
    """(ids of up to `most` evenly spaced records; what is wrong with the bad ones)."""
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
    """A short hash of names. Hosts that see different data get different hashes."""
    return hashlib.blake2b("\n".join(names).encode(errors="replace"), digest_size=4).hexdigest()
