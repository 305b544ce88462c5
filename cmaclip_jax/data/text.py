"""Words to token ids, always `<start> ... <end>` and padded, as CLIP's text tower expects."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers

START, END = "<|startoftext|>", "<|endoftext|>"


class Tokenizer:
    """A `tokenizers.Tokenizer` with CLIP's frame around every text.

    The end token has the highest id and is also the padding, as in CLIP: so the first
    highest id is where a text ends, by either of CLIP's pooling rules.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        self.backend = backend
        self.start, self.end = backend.token_to_id(START), backend.token_to_id(END)
        self.vocabulary = backend.get_vocab_size()

    def __call__(self, texts: Sequence[str | None], length: int) -> np.ndarray:
        """int32 [B,length]; an absent text is just start and end; a long one keeps its end."""
        ids = np.full((len(texts), length), self.end, np.int32)
        ids[:, 0] = self.start
        encoded = self.backend.encode_batch([text or "" for text in texts])
        for row, encoding in zip(ids, encoded, strict=True):
            words = encoding.ids[: length - 2]
            row[1 : 1 + len(words)] = words
        return ids

    def save(self, path: str | Path) -> None:
        self.backend.save(str(path))

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        return cls(tokenizers.Tokenizer.from_file(str(path)))


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of the run's own texts, lower-cased; for runs without CLIP's weights."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFC(), tokenizers.normalizers.Lowercase()]
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([START, END])  # last, so that they have the highest ids
    return Tokenizer(backend)
