"""Which texts say the same: in other order, case or punctuation, or with a word less.

A word that was replaced makes another text, since "black shirt" and "blue shirt" are two articles.
"""

import collections
import hashlib
import re
from collections.abc import Sequence

import numpy as np

WORD = re.compile(r"\w+")
WIDTH = 256  # of a vector of words
FEWEST = 3  # words of a text that may lack a word of another
SHARED = 0.7  # of the longer text's words, that the shorter one must have


def words_of(text: str | None) -> tuple[str, ...]:
    """The words of a text in one order, lower-cased; empty for a text that is missing."""
    return tuple(sorted(WORD.findall((text or "").casefold())))


def shared_words(first: Sequence[str], second: Sequence[str]) -> float:
    """The share of the longer text's words that the shorter one has; 0 if the two say different.

    They say the same if the words are equal, or if one has all words of the other and few more.
    """
    if not first or not second:
        return 0.0
    if first == second:
        return 1.0
    few, many = sorted((collections.Counter(first), collections.Counter(second)), key=_total)
    share = _total(few) / _total(many)
    return share if few <= many and _total(few) >= FEWEST and share >= SHARED else 0.0


def word_vectors(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """float32 [N,WIDTH] of length 1, whose products tell how many words two texts share.

    Each word adds 1 or -1 at a place that its hash gives. A text without words is zero.
    """
    vectors = np.zeros((len(texts), WIDTH), np.float32)
    places: dict[str, tuple[int, int]] = {}
    for vector, words in zip(vectors, texts, strict=True):
        for word in words:
            if word not in places:
                places[word] = _place(word)
            place, sign = places[word]
            vector[place] += sign
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _place(word: str) -> tuple[int, int]:
    digest = hashlib.blake2b(word.encode(errors="replace"), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    return number // 2 % WIDTH, 1 - 2 * (number % 2)


def _total(words: collections.Counter) -> int:
    return sum(words.values())
