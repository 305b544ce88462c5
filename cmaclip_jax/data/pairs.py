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


class PairReader:
    """Makes batches of pairs as the run reads them. A picture that cannot be read is no error."""

    def __init__(self, encode: BatchEncoder):
        self.encode = encode
        self._pool = ThreadPoolExecutor(REMOTE_READS, thread_name_prefix="pairs")

    def __call__(self, pairs: Sequence[Pair], rows: int) -> tuple[Batch, list[str]]:
        """A padded batch of `rows` rows, and for every pair a note on what it lacks, or ''.

        A note mentions only what the model reads.
        """
        batch = self.encode.empty(rows)
        pictures = list(self._pool.map(self._picture, pairs))
        tokenizer = self.encode.tokenizer
        texts = [pair.text for pair in pairs]
        notes = []
        has_text = [bool(tokenizer.clean(text)) for text in texts]
        for row, ((picture, note), words) in enumerate(zip(pictures, has_text, strict=True)):
            if picture is not None:
                batch["image"][row] = picture
            batch["has_image"][row], batch["has_text"][row] = picture is not None, words
            batch["weight"][row] = 1.0
            no_words = NO_WORDS if self.encode.reads_text and not words else ""
            lacks = "; ".join(filter(None, (note, no_words)))
            notes.append(NOTHING if lacks == f"{NO_PICTURE}; {NO_WORDS}" else lacks)
        batch["tokens"][: len(pairs)] = tokenizer(texts, self.encode.text_length)
        return batch, notes

    def _picture(self, pair: Pair) -> tuple[np.ndarray | None, str]:
        """The finished picture u8 [S,S,3], or None and the reason."""
        if not self.encode.reads_image:
            return None, ""
        if pair.image is None:
            return None, pair.note or NO_PICTURE
        try:
            return clip_image(pair.image, self.encode.image_size), ""
        except UnreadablePicture as error:
            return None, error.reason
