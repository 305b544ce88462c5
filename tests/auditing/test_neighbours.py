"""Nearest neighbours by blocks, against a sort of all similarities."""

import ml_dtypes
import numpy as np
import pytest

from cmaclip_jax.auditing import neighbours as module
from cmaclip_jax.auditing.neighbours import NO_NEIGHBOUR, neighbours


def unit_rows(rows, width=24, seed=0):
    drawn = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def by_sorting(keys, count, queries=None):
    """Every query's keys in the order of their similarity; its own row last."""
    similar = (keys if queries is None else queries) @ keys.T
    if queries is None:
        np.fill_diagonal(similar, -np.inf)
    order = np.argsort(-similar, axis=1)[:, :count]
    return order, np.take_along_axis(similar, order, axis=1)


@pytest.fixture
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "QUERIES", {"cpu": 64})
    monkeypatch.setattr(module, "KEYS", 256)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize("rows", [1_000, 256, 30])  # many blocks, whole blocks, less than one
def test_the_same_as_a_sort(rows):
    keys = unit_rows(rows)
    indices, similarities = neighbours(keys, 5)
    expected, values = by_sorting(keys, 5)
    assert (indices == expected).all()
    assert indices.dtype == np.int32
    np.testing.assert_allclose(similarities, values, atol=1e-6)


@pytest.mark.usefixtures("_small_blocks")
def test_queries_of_other_rows():
    keys, queries = unit_rows(700), unit_rows(90, seed=1)
    indices, _ = neighbours(keys, 3, queries, apart=False)
    assert (indices == by_sorting(keys, 3, queries)[0]).all()


@pytest.mark.usefixtures("_small_blocks")
def test_changed_queries_of_the_same_rows_do_not_find_themselves():
    keys = unit_rows(300)
    indices, _ = neighbours(keys, 3, keys * np.float32(0.5))
    assert (indices == by_sorting(keys, 3)[0]).all()


def test_fewer_rows_than_neighbours():
    indices, similarities = neighbours(unit_rows(3), 5)
    assert (indices[:, 2:] == NO_NEIGHBOUR).all()
    assert np.isneginf(similarities[:, 2:]).all()
    assert [set(row[:2].tolist()) for row in indices] == [{1, 2}, {0, 2}, {0, 1}]
    assert neighbours(unit_rows(0), 5)[0].shape == (0, 5)
    assert (neighbours(unit_rows(1), 2)[0] == NO_NEIGHBOUR).all()


@pytest.mark.usefixtures("_small_blocks")
def test_many_equal_rows():
    keys = np.repeat(unit_rows(1), 500, axis=0)
    indices, similarities = neighbours(keys, 4)
    np.testing.assert_allclose(similarities, 1, atol=1e-6)
    assert all(len({own, *row.tolist()}) == 5 for own, row in enumerate(indices))


def test_bfloat16():
    keys = unit_rows(200)
    indices, _ = neighbours(keys.astype(ml_dtypes.bfloat16), 1)
    assert (indices == by_sorting(keys, 1)[0]).mean() > 0.9


@pytest.mark.usefixtures("_small_blocks")
def test_progress_counts_the_blocks_of_queries():
    seen = []

    def track(items, what, total):
        seen.append((what, total, len(list(items))))
        return range(0, 130, 64)

    neighbours(unit_rows(130), 2, track=track)
    assert seen == [("finding neighbours", 3, 3)]
