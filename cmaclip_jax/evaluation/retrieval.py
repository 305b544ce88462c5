"""Retrieval: whether a run finds the text of a picture, and the picture of a text, among others.

The complete pairs of a split are shuffled, always in the same way, and divided into galleries of
almost equal size, at most GALLERY pairs each. Every picture asks for its text among the texts of
its gallery, and every text for its picture. A small gallery is easier than a large one, so figures
of galleries of different sizes cannot be compared.

Catalogues repeat their titles. A text that equals the right one counts as right, and so does a
picture whose text equals the one that is asked for. Texts are equal if their tokens are. A wrong
answer that is as similar as the best right answer ranks before that answer. So a run that gives
every pair the same similarity finds nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

GALLERY = 1_000  # pairs at most
RECALLED = (1, 5, 10)  # recall is the share of ranks up to these
SOUGHT = {"text": "text, by its picture", "image": "picture, by its text"}


def retrieval_figures(embeddings: Mapping[str, np.ndarray], complete: np.ndarray) -> dict:
    """The figures of a split; empty without complete pairs.

    embeddings: image and text [N,D], of length 1, and tokens [N,T]. complete: bool [N].

    Returns pairs, gallery (the size of the largest one), recall (the mean of all recalls) and, for
    each of SOUGHT, recall_at {"1": share of pairs} and median_rank.
    """
    places = np.flatnonzero(complete)
    if not len(places):
        return {}
    shuffled = np.random.default_rng(0).permutation(places)
    galleries = np.array_split(shuffled, -(-len(places) // GALLERY))
    ranks = [_gallery_ranks({k: x[rows] for k, x in embeddings.items()}) for rows in galleries]
    found = {what: _figures(np.concatenate([part[what] for part in ranks])) for what in SOUGHT}
    recalls = [recall for figures in found.values() for recall in figures["recall_at"].values()]
    sizes = {"pairs": len(places), "gallery": max(map(len, galleries))}
    return {**sizes, "recall": float(np.mean(recalls)), **found}


def _gallery_ranks(embeddings: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rank [G] of the best right answer to every pair of a gallery, for each of SOUGHT."""
    _, texts = np.unique(embeddings["tokens"], axis=0, return_inverse=True)
    right = texts.reshape(-1, 1) == texts.reshape(1, -1)  # [G,G]
    similar = embeddings["image"] @ embeddings["text"].T  # [G,G]: picture, text
    return {"text": best_ranks(similar, right), "image": best_ranks(similar.T, right)}


def best_ranks(similar: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The rank [G], from 1, of the best right answer in each row of similarities [G,G]."""
    best = np.max(similar, axis=1, where=right, initial=-np.inf, keepdims=True)
    return 1 + np.sum(~right & (similar >= best), axis=1)


def _figures(ranks: np.ndarray) -> dict[str, Any]:
    recalls = {str(most): float(np.mean(ranks <= most)) for most in RECALLED}
    return {"recall_at": recalls, "median_rank": float(np.median(ranks))}


def flat_figures(retrieval: Mapping[str, Any]) -> dict[str, float]:
    """The figures by names of their own, for the metrics log."""
    flat = {"recall": retrieval["recall"]}
    for what in SOUGHT:
        for most, share in retrieval[what]["recall_at"].items():
            flat[f"{what}_recall_at_{most}"] = share
        flat[f"{what}_median_rank"] = retrieval[what]["median_rank"]
    return flat
