"""Retrieval, against a search by sorting, one query after another."""

import numpy as np
import pytest

from cmaclip_jax.evaluation import retrieval
from cmaclip_jax.evaluation.retrieval import best_ranks, retrieval_figures


def make_embeddings(pairs: int, texts: int, noise: float = 0.8):
    """Pairs that share some texts; a picture lies near its text. Some pairs are incomplete."""
    random = np.random.default_rng(0)
    number = random.integers(0, texts, pairs)
    words = random.integers(0, 9, (texts, 4)).astype(np.float32)
    words[:, 0] = np.arange(texts)  # all different
    text = random.normal(size=(texts, 8))[number]
    image = text + noise * random.normal(size=text.shape)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    embeddings = dict(zip(("image", "text"), np.float32(unit), strict=True))
    return embeddings | {"tokens": words[number]}, random.random(pairs) > 0.2


def found_at(query, answers, wanted, tokens) -> int:
    """The place of the first right answer among all answers, the most similar first."""
    order = np.argsort(-(answers @ query), kind="stable")
    return next(place for place, row in enumerate(order, 1) if (tokens[row] == wanted).all())


def test_figures_equal_those_of_a_search_by_sorting():
    embeddings, complete = make_embeddings(60, 40)
    figures = retrieval_figures(embeddings, complete)
    image, text, tokens = (embeddings[name][complete] for name in ("image", "text", "tokens"))
    places = {
        "text": [found_at(*x, tokens) for x in zip(image, [text] * len(text), tokens, strict=True)],
        "image": [
            found_at(*x, tokens) for x in zip(text, [image] * len(text), tokens, strict=True)
        ],
    }
    assert (figures["pairs"], figures["gallery"]) == (complete.sum(), complete.sum())
    recalls = []
    for what, ranks in places.items():
        assert figures[what]["median_rank"] == np.median(ranks)
        for most, recall in figures[what]["recall_at"].items():
            recalls.append(np.mean([rank <= int(most) for rank in ranks]))
            assert recall == pytest.approx(recalls[-1])
    assert list(figures["text"]["recall_at"]) == ["1", "5", "10"]
    assert figures["recall"] == pytest.approx(np.mean(recalls))
    assert 0.2 < figures["recall"] < 0.95  # neither hopeless nor perfect


def test_a_large_split_is_searched_in_parts_of_almost_equal_size(monkeypatch):
    """A perfect run finds everything; the pairs of a part are always the same."""
    embeddings, complete = make_embeddings(200, 200, noise=0.0)
    monkeypatch.setattr(retrieval, "GALLERY", 50)
    sizes, whole = [], retrieval._gallery_ranks
    monkeypatch.setattr(
        retrieval, "_gallery_ranks", lambda x: sizes.append(len(x["image"])) or whole(x)
    )
    figures = retrieval_figures(embeddings, complete)
    assert sum(sizes) == figures["pairs"] == complete.sum()
    assert figures["gallery"] == max(sizes) <= 50
    assert max(sizes) - min(sizes) <= 1
    assert (figures["recall"], figures["text"]["median_rank"]) == (1.0, 1.0)
    noisy, _ = make_embeddings(200, 200)
    assert retrieval_figures(noisy, complete) == retrieval_figures(noisy, complete)


def test_what_looks_like_everything_else_is_not_found():
    right = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], bool)
    assert best_ranks(np.ones((4, 4)), right).tolist() == [3, 4, 3, 4]


def test_without_a_complete_pair_there_are_no_figures():
    embeddings, complete = make_embeddings(5, 5)
    assert retrieval_figures(embeddings, np.zeros_like(complete)) == {}
