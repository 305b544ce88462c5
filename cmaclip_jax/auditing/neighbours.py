"""The most similar rows of every row, found exactly, in bounded memory on the device.

The similarities of all pairs of ten million rows would not fit. So a block of queries is compared
with one block of keys after another, and only the best keys so far are kept.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

QUERIES = {"cpu": 2_048}  # in a block, by platform
QUERIES_ELSEWHERE = 16_384  # each block of keys is copied to an accelerator once for these
KEYS = 8_192  # in a block
GROUP = 32  # keys; the groups with the largest maxima are searched
NO_NEIGHBOUR = -1  # the index where a row has fewer neighbours than were asked for

Track = Callable[[Iterable, str, int], Iterable]


def untracked(items: Iterable, what: str, total: int) -> Iterable:
    """The items, without showing progress."""
    return items


def neighbours(
    keys: np.ndarray,
    count: int,
    queries: np.ndarray | None = None,
    apart: bool = True,
    track: Track = untracked,
    what: str = "finding neighbours",
) -> tuple[np.ndarray, np.ndarray]:
    """The keys that are most similar to each query, the most similar first.

    Args:
      keys: [N,D], of length 1; float32, or bfloat16 for accelerators. A row of zeros is similar to
        nothing.
      count: of neighbours.
      queries: [Q,D]; None: the keys.
      apart: whether query i and key i are the same row, which is no neighbour of itself. False
        for queries of other rows, as those of another split.

    Returns their numbers i32 [Q,count] and similarities f32 [Q,count]. Where there are fewer keys,
    the number is NO_NEIGHBOUR and the similarity -inf.
    """
    queries = keys if queries is None else queries
    rows = block_size(QUERIES.get(jax.default_backend(), QUERIES_ELSEWHERE), len(queries))
    columns = block_size(KEYS, len(keys))
    indices = np.full((len(queries), count), NO_NEIGHBOUR, np.int32)
    similarities = np.full((len(queries), count), -np.inf, np.float32)
    starts = range(0, len(queries), rows) if len(keys) else ()
    for first in track(starts, what, len(starts)):
        block = jnp.asarray(_padded(queries[first : first + rows], rows))
        best = jnp.full((rows, count), NO_NEIGHBOUR, jnp.int32), jnp.full((rows, count), -jnp.inf)
        for start in range(0, len(keys), columns):
            part = _padded(keys[start : start + columns], columns)
            best = _merge(best, block, part, start, len(keys), first if apart else -len(keys))
        some = slice(first, first + rows)
        size = len(indices[some])
        indices[some], similarities[some] = (np.asarray(x)[:size] for x in best)
    return indices, similarities


@functools.partial(jax.jit, donate_argnums=0)
def _merge(best, queries, keys, start, total, first):
    """The best keys so far, and those of one block: i32 [Q,K] and f32 [Q,K].

    start: the number of the block's first key. first: the number of the first query; a key of the
    query's own number is left out.
    """
    similar = jnp.einsum("qd,kd->qk", queries, keys, preferred_element_type=jnp.float32)
    number = start + jnp.arange(len(keys))
    own = (first + jnp.arange(len(queries)))[:, None] == number
    similar = jnp.where(own | (number >= total), -jnp.inf, similar)
    indices, similarities = best
    places, found = _top(similar, indices.shape[1])
    joined = jnp.concatenate([similarities, found], axis=1)
    numbers = jnp.concatenate([indices, start + places], axis=1)
    joined, order = jax.lax.top_k(joined, indices.shape[1])
    numbers = jnp.take_along_axis(numbers, order, axis=1)
    return jnp.where(jnp.isfinite(joined), numbers, NO_NEIGHBOUR), joined


def _top(similar: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The places and values [Q,<=count] of the largest similarities [Q,K].

    The largest lie in the groups with the largest maxima. So groups are chosen first, which is
    much less work than a choice among all keys.
    """
    rows, keys = similar.shape
    if keys % GROUP or keys // GROUP <= count:
        values, places = jax.lax.top_k(similar, min(count, keys))
        return places, values
    groups = similar.reshape(rows, keys // GROUP, GROUP)
    _, chosen = jax.lax.top_k(groups.max(axis=-1), count)  # [Q,count]
    inside = jnp.take_along_axis(groups, chosen[..., None], axis=1)  # [Q,count,GROUP]
    values, order = jax.lax.top_k(inside.reshape(rows, -1), count)
    group = jnp.take_along_axis(chosen, order // GROUP, axis=1)
    return group * GROUP + order % GROUP, values


def block_size(most: int, rows: int) -> int:
    """The size of a block: a power of two that holds all rows, or `most`."""
    return min(most, 1 << max(rows - 1, 1).bit_length())


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    """The rows, with rows of zeros up to a size, so that one program serves all blocks."""
    return rows if len(rows) == size else np.pad(rows, [(0, size - len(rows)), (0, 0)])
