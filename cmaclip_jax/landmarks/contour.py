"""The frame of a point on a contour of the face: directions along the contour and across it.

Annotators agree on the position of a jaw line, and less on where along it a point belongs. The
frame is our own reconstruction; we do not know the paper's. Works on numpy and on JAX arrays.
"""

import functools

import numpy as np

from cmaclip_jax.landmarks.layouts import Layout
from cmaclip_jax.landmarks.metrics import length, namespace


def tangents(points, layout: Layout | None):
    """The unit vector along the contour at every point: [..., P, 2] -> [..., P, 2].

    The vector points from the previous neighbour to the next one; at an open end the point itself
    replaces the missing neighbour. The horizontal axis of the face (from eye to eye, or that of
    the picture without eyes) is used for a point on no contour, and for one whose neighbours are
    unknown (NaN) or coincide.
    """
    xp = namespace(points)
    level = xp.broadcast_to(xp.asarray([1.0, 0.0], dtype=points.dtype), points.shape)
    if layout is None:
        return level
    if layout.eyes:
        one, other = layout.eyes
        across_face = points[..., other : other + 1, :] - points[..., one : one + 1, :]
        level = _unit(xp.broadcast_to(across_face, points.shape), level)
    before, after = neighbours(layout)
    return _unit(points[..., after, :] - points[..., before, :], level)


def normals(tangent):
    """The tangents turned by 90 degrees, from the x-axis towards the y-axis."""
    xp = namespace(tangent)
    return xp.stack([-tangent[..., 1], tangent[..., 0]], -1)


def into_frame(vectors, tangent):
    """Vectors from picture axes to (along the contour, across it): [..., P, 2]."""
    xp = namespace(vectors, tangent)
    along = (vectors * tangent).sum(-1)
    return xp.stack([along, (vectors * normals(tangent)).sum(-1)], -1)


def out_of_frame(vectors, tangent):
    """The inverse of `into_frame`: vectors to picture axes."""
    return vectors[..., :1] * tangent + vectors[..., 1:] * normals(tangent)


@functools.cache
def neighbours(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The previous and the next point on every point's contour; the point itself without one."""
    before, after = np.arange(layout.count), np.arange(layout.count)
    seen = set()
    for points, closed in layout.contours:
        last = len(points) - 1
        for place, point in enumerate(points):
            if point not in seen:
                before[point] = points[place - 1 if place or closed else 0]
                after[point] = points[(place + 1) % len(points) if place < last or closed else last]
        seen.update(points)
    return before, after


def _unit(vectors, otherwise):
    """Unit vectors; `otherwise` where a vector is zero or NaN."""
    xp = namespace(vectors, otherwise)
    known = xp.isfinite(vectors).all(-1, keepdims=True)
    vectors = xp.where(known, vectors, 0)  # before the arithmetic: gradients stay finite
    size = length(vectors)[..., None]
    directed = size > 0
    return xp.where(directed, vectors / xp.where(directed, size, 1), otherwise)
