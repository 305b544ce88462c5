"""Twins: pairs of rows that are the same or nearly the same, and what follows from them.

A pair is a candidate if one row is among the nearest of the other: by the pixels (as they are,
mirrored, or without a border), by the embedding of the picture, or by the words. A candidate is a
pair of twins if
    their pictures agree closely once they are aligned, or
    their pictures agree, and their texts say the same or their embeddings are almost equal, or
    neither has a picture and their words are equal.
If a row of a candidate lacks its picture, pictures do not count; if it lacks its text, words do
not count. A picture that cannot be read, or has one colour alone, counts as missing.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from cmaclip_jax.auditing.alignment import aligned_agreement
from cmaclip_jax.auditing.neighbours import Track, neighbours, untracked
from cmaclip_jax.auditing.thumbnails import descriptors, read_thumbnails
from cmaclip_jax.auditing.wording import shared_words, word_vectors, words_of
from cmaclip_jax.data.records import Label, Source

EVIDENCE = ("pixels", "embedding", "text")
COUNT = 16  # neighbours of a row that are looked at
SIMILAR = {"pixels": 0.9, "embedding": 0.9, "text": 0.75}  # the least of a candidate
# The least correlation of edges, and the largest difference of a block's mean colour, of pictures
ROUGHLY = (0.85, 40.0)  # of half the size that are compared once more
LIKE = (0.94, 12.0)  # that agree
SAME = (0.97, 5.0)  # that agree closely
EMBEDDED = 0.99  # embeddings that are almost equal
LINKS = 4  # of a row, beside those that hold its group together


@dataclasses.dataclass(frozen=True)
class Twins:
    """Pairs of rows.

    first, second: i32 [M], first < second. similarity: f32 [M], the correlation of the pictures'
    edges, or 1 of equal words where there are no pictures. evidence: bool [M,3], what speaks for
    the pair, in the order of EVIDENCE.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    evidence: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def chosen(self, pairs: np.ndarray) -> "Twins":
        """Some of the pairs, by their numbers or by a mask."""
        return Twins(*(getattr(self, field.name)[pairs] for field in dataclasses.fields(self)))

    @property
    def sure(self) -> "Twins":
        """The pairs that agree by their pixels or, without pictures, by equal words.

        Pictures that agree roughly under the same title are often those of two articles.
        """
        return self.chosen(self.evidence[:, EVIDENCE.index("pixels")] | (self.similarity == 1))


class Conflict(NamedTuple):
    """Twins with different labels of a task. pair: its number among all pairs."""

    pair: int
    task: str
    first: Label
    second: Label


def find_twins(
    source: Source, embeddings: np.ndarray | None = None, track: Track = untracked
) -> Twins:
    """The twins among the records of a source.

    embeddings: of the pictures, [N,D] of length 1; a row without one is zero. None: not used.
    track: shows progress, as `Screen.track` does.
    """
    thumbnails, has = read_thumbnails(source, track)
    words = [words_of(source.text(row)) for row in range(len(source))]
    first, second, mirrored = _candidates(thumbnails, has, words, embeddings, track)
    pictured = has[first] & has[second]
    bare = ~has[first] & ~has[second]
    edges, blocks = _compared(thumbnails, first, second, mirrored, pictured, track)
    like, same = _agree(edges, blocks, LIKE), _agree(edges, blocks, SAME)
    texts = np.zeros(len(first), np.float32)
    for pair in np.flatnonzero(like | bare):
        texts[pair] = shared_words(words[first[pair]], words[second[pair]])
    close = np.zeros(len(first), bool)
    if embeddings is not None:
        rows = np.flatnonzero(like)
        pairs = embeddings[first[rows]].astype(np.float32), embeddings[second[rows]]
        close[rows] = np.einsum("md,md->m", *pairs) >= EMBEDDED
    evidence = np.stack([same, close, texts > 0], axis=1)
    found = same | (like & (close | (texts > 0))) | (bare & (texts == 1))
    similarity = np.where(bare, texts, edges).astype(np.float32)
    rows = np.flatnonzero(found)
    return _few_links(_one_of_each(first[rows], second[rows], similarity[rows], evidence[rows]))


def _candidates(thumbnails, has, words, embeddings, track: Track):
    """first and second i32 [M] of every candidate, and whether it is one of mirrored pictures."""
    pixels = [
        hash(x.tobytes()) if there else None for x, there in zip(thumbnails, has, strict=True)
    ]
    found = [_equal_rows(pixels), _equal_rows([hash(row) if row else None for row in words])]
    mirrored = [len(pairs) * [False] for pairs in found]
    distinct = has.copy()
    distinct[found[0][:, 1]] = False  # equal pictures would crowd out all other neighbours
    whole = descriptors(thumbnails, distinct)
    for view in ("whole", "centred", "mirrored"):
        queries = None if view == "whole" else descriptors(thumbnails, distinct, view)
        what = f"neighbours by pixels, {view}"
        found.append(_similar(whole, "pixels", queries, track, what))
        mirrored.append(len(found[-1]) * [view == "mirrored"])
    others = {"embedding": embeddings, "text": word_vectors(words)}
    for name, vectors in others.items():
        if vectors is not None:
            found.append(_similar(vectors, name, None, track, f"neighbours by {name}"))
            mirrored.append(len(found[-1]) * [False])
    pairs = np.sort(np.concatenate(found), axis=1).astype(np.int64)
    keys = (pairs[:, 0] * len(has) + pairs[:, 1]) * 2 + np.concatenate(mirrored)
    keys = np.unique(keys.astype(np.int64))
    first, second = np.divmod(keys // 2, max(len(has), 1))
    return first.astype(np.int32), second.astype(np.int32), keys % 2 == 1


def _similar(vectors, name: str, queries, track: Track, what: str) -> np.ndarray:
    """Pairs [M,2] of rows and their neighbours that are similar enough."""
    indices, similarities = neighbours(vectors, COUNT, queries, track=track, what=what)
    rows, places = np.nonzero(similarities >= SIMILAR[name])
    return np.stack([rows, indices[rows, places]], axis=1)


def _equal_rows(numbers: Sequence[int | None]) -> np.ndarray:
    """Pairs [M,2] of each row and the first row with the same number. None equals nothing.

    However many rows are equal, each adds one pair.
    """
    rows = np.array([row for row, number in enumerate(numbers) if number is not None], np.int64)
    known = np.array([numbers[row] for row in rows], np.int64)
    _, first, group = np.unique(known, return_index=True, return_inverse=True)
    pairs = np.stack([rows[first[group]], rows], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _compared(thumbnails, first, second, mirrored, pictured, track: Track):
    """`aligned_agreement` of the candidates f32 [M] and f32 [M]; the unlike are left out early."""
    edges, blocks = np.zeros(len(first), np.float32), np.full(len(first), np.inf, np.float32)
    rows = np.flatnonzero(pictured)
    for rough, what in ((True, "roughly"), (False, "closely")):
        pairs = first[rows], second[rows], mirrored[rows]
        found = aligned_agreement(thumbnails, *pairs, rough, track, f"comparing pictures {what}")
        if rough:
            rows = rows[_agree(*found, ROUGHLY)]
    edges[rows], blocks[rows] = found
    return edges, blocks


def _agree(edges: np.ndarray, blocks: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (edges >= limits[0]) & (blocks <= limits[1])


def _one_of_each(first, second, similarity, evidence) -> Twins:
    """Of a pair that was found as it is and mirrored, the more similar one."""
    order = np.lexsort((-similarity, second, first))
    first, second = first[order], second[order]
    new = np.ones(len(first), bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    rows = order[new]
    return Twins(first[new], second[new], similarity[rows], evidence[rows])


def _few_links(twins: Twins) -> Twins:
    """The best LINKS pairs of every row, and those without which a group would fall apart."""
    size = int(twins.second.max(initial=0)) + 1
    kept = np.zeros(len(twins), bool)
    ends = np.concatenate([twins.first, twins.second])
    pairs = np.tile(np.arange(len(twins)), 2)
    order = np.lexsort((pairs, -twins.similarity[pairs], ends))
    starts = np.searchsorted(ends[order], ends[order])  # where the row of each entry begins
    kept[pairs[order[np.arange(len(order)) - starts < LINKS]]] = True
    tree = csgraph.minimum_spanning_tree(_graph(twins, size, 2.0 - twins.similarity)).tocoo()
    numbers = twins.first.astype(np.int64) * size + twins.second
    kept |= np.isin(numbers, tree.row.astype(np.int64) * size + tree.col)
    return twins.chosen(kept)


def _graph(twins: Twins, count: int, weights: np.ndarray) -> sparse.coo_array:
    return sparse.coo_array((weights, (twins.first, twins.second)), shape=(count, count))


def twin_groups(twins: Twins, count: int) -> np.ndarray:
    """The number of each row's group, i32 [count]. Twins, and twins of twins, are in one group."""
    graph = _graph(twins, count, np.ones(len(twins), np.float32))
    return csgraph.connected_components(graph, directed=False)[1].astype(np.int32)


def leaks(twins: Twins, splits: Sequence[str] | np.ndarray) -> np.ndarray:
    """bool [N], the rows of val and test that have a twin in train.

    splits: the split of every row.
    """
    training = np.asarray(splits) == "train"
    leaked = np.zeros(len(training), bool)
    for one, other in ((twins.first, twins.second), (twins.second, twins.first)):
        leaked[one[~training[one] & training[other]]] = True
    return leaked


def conflicts(twins: Twins, labels: Mapping[str, Sequence[Label]]) -> list[Conflict]:
    """Twins with different known labels, pair by pair.

    labels: {task: the label of every row}. The order of several labels makes no difference.
    """
    found = []
    for pair, rows in enumerate(zip(twins.first.tolist(), twins.second.tolist(), strict=True)):
        for task, column in labels.items():
            first, second = (column[row] for row in rows)
            if first is not None and second is not None and _members(first) != _members(second):
                found.append(Conflict(pair, task, first, second))
    return found


def _members(label: Label) -> frozenset[str]:
    return frozenset(label if isinstance(label, tuple) else (label,))
