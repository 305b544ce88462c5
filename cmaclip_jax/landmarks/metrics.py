"""The accuracy of facial landmarks, and their stability in video.

The paper's abstract mentions two metrics of stability without their formulas. The formulas below
are our own reconstruction, each similar to a published one. The functions take numpy arrays, or
JAX arrays under jax.jit. `valid` [frames] and `known` [frames, points] select the points that
count; NaN never counts. Gradients stay finite for points that do not count. A figure over no points
is NaN. `by` is one of SIZES.
"""

import numpy as np

from cmaclip_jax.landmarks.layouts import Layout

SIZES = ("eyes", "box")  # ways to measure a face's size


def namespace(*arrays):
    """numpy, or jax.numpy if one of the arrays belongs to JAX; arguments may be None."""
    given = [array for array in arrays if array is not None]
    other = [array for array in given if not isinstance(array, np.ndarray | np.generic)]
    return (other or given)[0].__array_namespace__()


def root(squares):
    """The square root, with a gradient of zero at zero."""
    xp = namespace(squares)
    positive = squares > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, squares, 1)), 0)


def length(vectors):
    """The lengths of vectors: [..., 2] -> [...]."""
    return root((vectors**2).sum(-1))


def mean_where(values, mask, axis=None):
    """The mean of the values where the mask is true; NaN where it is true nowhere."""
    xp = namespace(values, mask)
    count = mask.sum(axis)
    total = xp.where(mask, values, 0).sum(axis)
    return xp.where(count > 0, total / xp.maximum(count, 1), xp.nan)


def face_sizes(points, layout: Layout | None, by: str = "eyes"):
    """The sizes of faces: [..., P, 2] -> [...], NaN where a size is unknown.

    by: 'eyes', the distance of the outer eye corners; without a layout or its eyes the root mean
    square distance of the known points from their centre. Or 'box', the square root of the area
    of the upright box around the known points.
    """
    xp = namespace(points)
    mask = xp.isfinite(points).all(-1)
    sizes, sized = _sizes(xp.where(mask[..., None], points, 0), mask, layout, by)
    return xp.where(sized, sizes, xp.nan)


def typical_size(points, layout: Layout | None, valid=None, by: str = "eyes"):
    """The median size over the valid frames: one number."""
    points, mask = _counted(points, valid)
    return _typical_size(points, mask, layout, by)


def normalised_errors(points, truth, layout: Layout | None, valid=None, known=None, by="eyes"):
    """The mean distance from the truth by the truth's size, per frame: [frames].

    NaN where a frame does not count, or its truth has no size (an eye corner is missing).
    """
    points, truth, mask, of_truth = _both(points, truth, valid, known)
    xp = namespace(points)
    sizes, sized = _sizes(truth, of_truth, layout, by)
    errors = mean_where(length(points - truth), mask & sized[:, None], 1)
    return xp.where(sized, errors / xp.where(sized, sizes, 1), xp.nan)


def nme(errors, valid=None):
    """The normalised mean error: the mean of `normalised_errors` over the frames."""
    return mean_where(*_counted_errors(errors, valid))


def failure_rate(errors, valid=None, limit: float = 0.1):
    """The share of frames whose error is above the limit.

    A frame without a detected face counts as failed if its error is infinite.
    """
    errors, mask = _counted_errors(errors, valid)
    return mean_where(errors > limit, mask)


def auc(errors, valid=None, limit: float = 0.1):
    """The area under the share of frames with at most an error, from 0 to the limit, over it.

    This is exact: a frame with error e adds a step at e with the width limit - e.
    """
    errors, mask = _counted_errors(errors, valid)
    return mean_where((1 - errors / limit).clip(0, 1), mask)


def motion_error(
    points, truth, layout: Layout | None, valid=None, known=None, axis=None, by: str = "eyes"
):
    """Stability with truth: the error of the points' motion from frame to frame.

    The mean over points and consecutive frames of |(g_t - g_t-1) - (p_t - p_t-1)| by the
    truth's size at t. A constant bias gives zero. White jitter with the standard deviation s per
    coordinate gives s * sqrt(pi), for a still or a moving truth: a difference of two such vectors
    has the variance 2 s^2, and its mean length is s * sqrt(2) * sqrt(pi / 2).

    axis: None for one number, 0 for one per point, 1 for one per pair of frames [frames - 1].
    """
    points, truth, mask, of_truth = _both(points, truth, valid, known)
    xp = namespace(points)
    sizes, sized = _sizes(truth, of_truth, layout, by)
    wrong = points - truth  # the difference of motions is the motion of the difference
    distances = length(wrong[1:] - wrong[:-1])  # [frames - 1, points]
    counted = mask[1:] & mask[:-1] & sized[1:, None]
    return mean_where(distances / xp.where(sized, sizes, 1)[1:, None], counted, axis)


def midpoint_jitter(
    points, layout: Layout | None, valid=None, known=None, axis=None, by="eyes", apart: int = 1
):
    """Stability without truth: the distance from the midpoint of the neighbours in time.

    The root mean square over points and inner frames of |p_t - (p_t-1 + p_t+1) / 2| by the
    face's size, which is the median over the frames. Uniform motion gives zero. White jitter with
    the standard deviation s per coordinate gives s * sqrt(3): a deviation has the variance
    s^2 + 2 s^2 / 4 in each of two coordinates.

    axis: None for one number, 0 for one per point, 1 for one per inner frame [frames - 2 * apart].
    apart: the distance of the neighbours in frames.
    """
    points, mask = _counted(points, valid, known)
    before, inner, after = slice(-2 * apart), slice(apart, -apart), slice(2 * apart, None)
    away = points[inner] - (points[before] + points[after]) / 2
    counted = mask[inner] & mask[before] & mask[after]
    squares = mean_where((away**2).sum(-1), counted, axis)
    return _root_or_nan(squares) / _typical_size(points, mask, layout, by)


def still_jitter(views, layout: Layout | None, valid=None, known=None, axis=None, by: str = "eyes"):
    """The spread of the points of one still face over slightly changed views of it.

    views: [views, points, 2], the points in the face's own coordinates. The standard deviation
    of a point, both coordinates together and unbiased (n - 1), by the face's size. White jitter of
    s per coordinate gives s * sqrt(2). Points with fewer than two views do not count.

    axis: None for one number (the root mean square over points), 0 for one per point.
    """
    points, mask = _counted(views, valid, known)
    xp = namespace(points)
    count = mask.sum(0)  # [points]
    centre = points.sum(0) / xp.maximum(count, 1)[:, None]
    squares = xp.where(mask, ((points - centre) ** 2).sum(-1), 0).sum(0)
    variances = xp.where(count > 1, squares / xp.maximum(count - 1, 1), xp.nan)
    if axis is None:
        variances = mean_where(xp.where(count > 1, variances, 0), count > 1)
    return _root_or_nan(variances) / _typical_size(points, mask, layout, by)


def _root_or_nan(squares):
    xp = namespace(squares)
    return xp.where(xp.isnan(squares), xp.nan, root(squares))


def _counted(points, valid=None, known=None):
    """The points, 0 where they do not count, and a mask of those that count: [frames, points]."""
    xp = namespace(points, valid, known)
    mask = xp.isfinite(points).all(-1)
    if valid is not None:
        mask = mask & (valid > 0)[:, None]
    if known is not None:
        mask = mask & (known > 0)
    return xp.where(mask[..., None], points, 0), mask


def _both(points, truth, valid, known):
    """Predictions and truth, 0 where they do not count; a mask of both and one of the truth.

    The face's size depends on the truth alone and needs the second mask.
    """
    points, mask = _counted(points, valid, known)
    truth, of_truth = _counted(truth, valid, known)
    return points, truth, mask & of_truth, of_truth


def _counted_errors(errors, valid):
    """Errors, 0 where a frame does not count, and a mask of the frames that count."""
    xp = namespace(errors, valid)
    mask = ~xp.isnan(errors)
    if valid is not None:
        mask = mask & (valid > 0)
    return xp.where(mask, errors, 0), mask


def _sizes(points, mask, layout: Layout | None, by: str):
    """Sizes of faces, and a mask of faces that have one; points outside `mask` are 0."""
    xp = namespace(points, mask)
    if by == "box":
        low = xp.where(mask[..., None], points, xp.inf).min(-2)
        high = xp.where(mask[..., None], points, -xp.inf).max(-2)
        any_known = mask.any(-1)[..., None]
        sides = xp.where(any_known, high, 0) - xp.where(any_known, low, 0)
        sizes = root(sides[..., 0] * sides[..., 1])
        return sizes, sizes > 0
    if layout is not None and layout.eyes:
        one, other = layout.eyes
        sizes = length(points[..., one, :] - points[..., other, :])
        return sizes, mask[..., one] & mask[..., other] & (sizes > 0)
    count = xp.maximum(mask.sum(-1), 1)[..., None]
    centre = points.sum(-2) / count
    squares = ((points - centre[..., None, :]) ** 2).sum(-1)
    sizes = root(xp.where(mask, squares, 0).sum(-1) / count[..., 0])
    return sizes, sizes > 0


def _typical_size(points, mask, layout: Layout | None, by: str):
    """The median of the known sizes."""
    xp = namespace(points, mask)
    sizes, sized = _sizes(points, mask, layout, by)
    count = sized.sum()
    ordered = xp.sort(xp.where(sized, sizes, xp.inf))
    low, high = xp.maximum(count - 1, 0) // 2, xp.minimum(count // 2, len(sizes) - 1)
    middle = (xp.take(ordered, low) + xp.take(ordered, high)) / 2
    return xp.where(count > 0, middle, xp.nan)
