"""Pairs to be answered, as batches. A pair that cannot be read keeps its place."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cmaclip_jax.data.batches import Batch, BatchEncoder
from cmaclip_jax.data.images import Picture, UnreadablePicture, clip_image
from cmaclip_jax.data.storage import REMOTE_READS

NO_PICTURE, NO_WORDS, NOTHING = "no picture", "no words", "neither picture nor words"


@dataclasses.dataclass(frozen=True)
class Pair:
    """A picture and a text; either may be missing.

    image: the path of a file (local or in a bucket), its bytes, or the picture itself.
    note: why it has no picture, if that is known already.
    """

    image: Picture | None
    text: str | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class ReadPair:
    """A pair whose picture has been read.

    picture: u8 [S,S,3] as the model receives it, or None.
    note: why there is no picture, or ''.
    """

    picture: np.ndarray | None
    text: str | None
    note: str


class PairReader:
    """Makes batches of pairs as the run reads them. A picture that cannot be read is no error."""

    def __init__(self, encode: BatchEncoder):
        self.encode = encode
        self._pool = ThreadPoolExecutor(REMOTE_READS, thread_name_prefix="pairs")

    def __call__(self, pairs: Sequence[Pair], rows: int) -> tuple[Batch, list[str]]:
        """A padded batch of `rows` rows, and for every pair a note on what it lacks, or ''.

        A note mentions only what the model reads.
        """
        return self.batch(list(self._pool.map(self.read, pairs)), rows)

    def read(self, pair: Pair) -> ReadPair:
        """Reads the picture of a pair."""
        if not self.encode.reads_image:
            return ReadPair(None, pair.text, "")
        if pair.image is None:
            return ReadPair(None, pair.text, pair.note or NO_PICTURE)
        try:
            return ReadPair(clip_image(pair.image, self.encode.image_size), pair.text, "")
        except UnreadablePicture as error:
            return ReadPair(None, pair.text, error.reason)

    def batch(self, pairs: Sequence[ReadPair], rows: int) -> tuple[Batch, list[str]]:
        """The same as a call, of pairs that `read` has read."""
        batch = self.encode.empty(rows)
        tokenizer = self.encode.tokenizer
        texts = [pair.text for pair in pairs]
        notes = []
        for row, pair in enumerate(pairs):
            if pair.picture is not None:
                batch["image"][row] = pair.picture
            has_text = bool(tokenizer.clean(pair.text))
            batch["has_image"][row], batch["has_text"][row] = pair.picture is not None, has_text
            batch["weight"][row] = 1.0
            no_words = NO_WORDS if self.encode.reads_text and not has_text else ""
            lacks = "; ".join(filter(None, (pair.note, no_words)))
            notes.append(NOTHING if lacks == f"{NO_PICTURE}; {NO_WORDS}" else lacks)
        batch["tokens"][: len(pairs)] = tokenizer(texts, self.encode.text_length)
        return batch, notes
