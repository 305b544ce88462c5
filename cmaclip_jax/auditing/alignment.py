"""How well two small pictures agree after one has been laid over the other.

A cropped copy shows the same content, moved and enlarged a little. Two pictures are therefore
aligned first: by Gauss-Newton steps on the scale and the shift of each axis. Then two figures are
taken from the part that both show: the correlation of the edges, and the largest difference of a
block's mean colour. Different products on a white background have much in common, but not their
edges; and the same product in another colour differs in a block.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cmaclip_jax.auditing.neighbours import Track, block_size, untracked

PAIRS = 2_048  # are compared at a time
STEPS = 5  # of Gauss-Newton
MOST_SCALED = 0.12  # how much larger or smaller one picture may be than the other
MOST_MOVED = 2.5  # pixels of the small pictures
RIDGE = 1e-3  # keeps the steps finite where a picture has no edges
BLOCKS = 6  # blocks along each side of a picture


def aligned_agreement(
    pictures: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    mirrored: np.ndarray,
    rough: bool = False,
    track: Track = untracked,
    what: str = "comparing pictures",
) -> tuple[np.ndarray, np.ndarray]:
    """Compares pairs of pictures.

    Args:
      pictures: uint8 [N,S,S,3].
      first, second: i32 [M], the two pictures of each pair.
      mirrored: bool [M], whether the second picture is mirrored before it is compared.
      rough: whether pictures of half the size are compared, which is several times faster.

    Returns the correlation of the edges f32 [M], and the largest difference of a block's mean
    colour f32 [M], 0 to 255.
    """
    edges = np.zeros(len(first), np.float32)
    blocks = np.zeros(len(first), np.float32)
    size = block_size(PAIRS, len(first))
    starts = range(0, len(first), size)
    for start in track(starts, what, len(starts)):
        part = slice(start, start + size)
        a, b = pictures[first[part]], pictures[second[part]]
        b = np.where(mirrored[part, None, None, None], b[:, :, ::-1], b)
        missing = [(0, size - len(a)), (0, 0), (0, 0), (0, 0)]  # one program is compiled
        found = _agreement(np.pad(a, missing), np.pad(b, missing), rough)
        edges[part], blocks[part] = (np.asarray(x)[: len(a)] for x in found)
    return edges, blocks


@functools.partial(jax.jit, static_argnames="rough")
def _agreement(a: jax.Array, b: jax.Array, rough: bool) -> tuple[jax.Array, jax.Array]:
    """The two figures of pairs of pictures [P,S,S,3], with the best of three alignments.

    The pictures are compared as they are, and with either of them laid over the other.
    """
    a, b = (x.astype(jnp.float32) for x in (a, b))
    if rough:
        shape = (len(a), a.shape[1] // 2, 2, a.shape[2] // 2, 2, 3)
        a, b = (x.reshape(shape).mean((2, 4)) for x in (a, b))
    start = jnp.zeros((len(a), 4))
    edges, blocks = _figures(a, b, start)
    for one, other in ((a, b), (b, a)):
        step = functools.partial(_improved, one, other)
        aligned = _figures(one, other, jax.lax.fori_loop(0, STEPS, step, start))
        better = aligned[0] > edges
        edges = jnp.where(better, aligned[0], edges)
        blocks = jnp.where(better, aligned[1], blocks)
    return edges, blocks


def _figures(a: jax.Array, b: jax.Array, parameters: jax.Array) -> tuple[jax.Array, jax.Array]:
    moved, seen = _moved(b, parameters)
    return _edge_correlation(a, moved, seen), _largest_difference(a, moved, seen)


def _moved(b: jax.Array, parameters: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The pictures scaled and shifted along both axes, and which pixels they have [P,S,S]."""
    rows, has_row = _sampling(b.shape[1], parameters[:, 0], parameters[:, 1])
    columns, has_column = _sampling(b.shape[1], parameters[:, 2], parameters[:, 3])
    moved = jnp.einsum("prs,pstc->prtc", rows, b)
    moved = jnp.einsum("pqt,prtc->prqc", columns, moved)
    return moved, has_row[:, :, None] * has_column[:, None, :]


def _sampling(size: int, scale: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The matrix [P,S,S] that samples an axis linearly, and which places lie inside [P,S]."""
    offset = jnp.arange(size) - (size - 1) / 2
    places = (size - 1) / 2 + offset * (1 + scale[:, None]) + shift[:, None]  # [P,S]
    inside = (places > -0.5) & (places < size - 0.5)
    places = places.clip(0, size - 1)
    matrix = jnp.maximum(0, 1 - jnp.abs(places[:, :, None] - jnp.arange(size)))
    return matrix, inside.astype(jnp.float32)


def _improved(a: jax.Array, b: jax.Array, _, parameters: jax.Array) -> jax.Array:
    """The parameters [P,4] after one Gauss-Newton step: scale and shift of rows, of columns."""
    moved, seen = _moved(b, parameters)
    size = a.shape[1]
    offset = jnp.arange(size) - (size - 1) / 2
    down, across = jnp.gradient(moved, axis=(1, 2))
    slopes = jnp.stack(
        [down * offset[:, None, None], down, across * offset[:, None], across], axis=1
    )  # [P,4,S,S,3]
    slopes = slopes * seen[:, None, :, :, None]
    flat = slopes.reshape(len(a), 4, -1)
    products = flat @ flat.transpose(0, 2, 1)  # [P,4,4]
    ridge = RIDGE * (products * jnp.eye(4)) + jnp.eye(4)
    errors = jnp.einsum("pkn,pn->pk", flat, (a - moved).reshape(len(a), -1))
    step = jnp.linalg.solve(products + ridge, errors[..., None])[..., 0]
    most = jnp.array([MOST_SCALED, MOST_MOVED, MOST_SCALED, MOST_MOVED])
    return (parameters + step).clip(-most, most)


def _edge_correlation(a: jax.Array, b: jax.Array, seen: jax.Array) -> jax.Array:
    """The correlation [P] of the differences between neighbouring pixels that both show."""
    sums = []
    for axis in (1, 2):
        both = jnp.minimum(*_ends(seen, axis))[..., None]
        (a0, a1), (b0, b1) = _ends(a, axis), _ends(b, axis)
        x, y = both * (a1 - a0), both * (b1 - b0)
        sums.append(jnp.stack([(z).sum((1, 2, 3)) for z in (x * y, x * x, y * y)]))
    product, own, other = sums[0] + sums[1]
    return product / jnp.sqrt(jnp.maximum(own * other, 1e-6))


def _ends(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """All but the last, and all but the first, along an axis."""
    size = x.shape[axis]
    return (
        jax.lax.slice_in_dim(x, 0, size - 1, axis=axis),
        jax.lax.slice_in_dim(x, 1, size, axis=axis),
    )


def _largest_difference(a: jax.Array, b: jax.Array, seen: jax.Array) -> jax.Array:
    """The largest difference [P] between the mean colours of blocks, over what both show."""
    side = a.shape[1] // BLOCKS
    shape = (len(a), BLOCKS, side, BLOCKS, side, -1)
    difference = ((a - b) * seen[..., None]).reshape(shape).sum((2, 4))  # [P,BLOCKS,BLOCKS,3]
    pixels = seen.reshape(shape).sum((2, 4))  # [P,BLOCKS,BLOCKS,1]
    return (jnp.abs(difference) / jnp.maximum(pixels, side)).max((1, 2, 3))
