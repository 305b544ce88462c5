"""How accurate facial landmarks are, and how still they stand in video.

The paper names two metrics of stability and not their formulas to us: those below are our own
reconstruction, each after a published neighbour. Functions of arrays alone, on numpy and under
jax.jit. `valid` [frames] and `known` [frames, points] say what counts; what is NaN does not.
Gradients are finite whatever does not count. A figure over nothing is NaN. `by` is one of SIZES.
"""

from cmaclip_jax.landmarks.arrays import length, mean_where, namespace, root
from cmaclip_jax.landmarks.layouts import Layout

SIZES = ("eyes", "box")  # what can be taken for a face's size


def face_sizes(points, layout: Layout | None, by: str = "eyes"):
    """How large every face is: [..., P, 2] -> [...], NaN where that cannot be said.

    by: 'eyes', the distance of the outer eye corners; without a layout or its eyes the root mean
    square distance of the known points from their centre. Or 'box', the square root of the area
    of the upright box around the known points.
    """
    xp = namespace(points)
    mask = xp.isfinite(points).all(-1)
    sizes, sized = _sizes(xp.where(mask[..., None], points, 0), mask, layout, by)
    return xp.where(sized, sizes, xp.nan)


def typical_size(points, layout: Layout | None, valid=None, by: str = "eyes"):
    """The median of the sizes over the valid frames: one number."""
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
    """The normalised mean error: the mean of what `normalised_errors` says of the frames."""
    return mean_where(*_counted_errors(errors, valid))


def failure_rate(errors, valid=None, limit: float = 0.1):
    """The share of frames whose error is above the limit.

    A frame in which no face was found counts as failed if its error is given as infinite.
    """
    errors, mask = _counted_errors(errors, valid)
    return mean_where(errors > limit, mask)


def auc(errors, valid=None, limit: float = 0.1):
    """The area under the share of frames with at most an error, from 0 to the limit, over it.

    Exact: a frame of error e adds a step at e, which is limit - e wide.
    """
    errors, mask = _counted_errors(errors, valid)
    return mean_where((1 - errors / limit).clip(0, 1), mask)


def motion_error(
    points, truth, layout: Layout | None, valid=None, known=None, axis=None, by: str = "eyes"
):
    """Stability with truth: how wrongly points move from frame to frame.

    The mean over points and consecutive frames of |(g_t - g_t-1) - (p_t - p_t-1)| by the
    truth's size at t. A constant bias costs nothing. White jitter of standard deviation s per
    coordinate gives s * sqrt(pi), if the truth stands still or not: a difference of two has
    the variance 2 s^2, and the mean length of such a vector is s * sqrt(2) * sqrt(pi / 2).

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
    """Stability without truth: how far points are from halfway between their neighbours in time.

    The root mean square over points and inner frames of |p_t - (p_t-1 + p_t+1) / 2| by the
    face's size, which is the median over the frames. Steady motion costs nothing. White jitter
    of standard deviation s per coordinate gives s * sqrt(3): a deviation has the variance
    s^2 + 2 s^2 / 4 in each of two coordinates.

    axis: None for one number, 0 for one per point, 1 for one per inner frame [frames - 2 * apart].
    apart: how many frames away the neighbours are.
    """
    points, mask = _counted(points, valid, known)
    before, inner, after = slice(-2 * apart), slice(apart, -apart), slice(2 * apart, None)
    away = points[inner] - (points[before] + points[after]) / 2
    counted = mask[inner] & mask[before] & mask[after]
    squares = mean_where((away**2).sum(-1), counted, axis)
    return _root_or_nan(squares) / _typical_size(points, mask, layout, by)


def still_jitter(views, layout: Layout | None, valid=None, known=None, axis=None, by: str = "eyes"):
    """How far the points of one still face stray over slightly changed views of it.

    views: [views, points, 2], the points in the face's own coordinates. The standard deviation
    of a point, both coordinates together and unbiased (n - 1), by the face's size: white jitter
    of s per coordinate gives s * sqrt(2). Points seen in fewer than two views do not count.

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
    """The points, 0 where they do not count, and which of them do: [frames, points]."""
    xp = namespace(points, valid, known)
    mask = xp.isfinite(points).all(-1)
    if valid is not None:
        mask = mask & (valid > 0)[:, None]
    if known is not None:
        mask = mask & (known > 0)
    return xp.where(mask[..., None], points, 0), mask


def _both(points, truth, valid, known):
    """Predictions and truth, 0 where either does not count; both masks: of both, of the truth.

    A face's size comes from its truth alone, whatever the prediction lacks.
    """
    points, mask = _counted(points, valid, known)
    truth, of_truth = _counted(truth, valid, known)
    return points, truth, mask & of_truth, of_truth


def _counted_errors(errors, valid):
    """Errors, 0 where a frame does not count, and which frames do."""
    xp = namespace(errors, valid)
    mask = ~xp.isnan(errors)
    if valid is not None:
        mask = mask & (valid > 0)
    return xp.where(mask, errors, 0), mask


def _sizes(points, mask, layout: Layout | None, by: str):
    """Sizes of faces whose uncounted points are 0, and for which faces there is one."""
    xp = namespace(points, mask)
    if by == "box":
        low = xp.where(mask[..., None], points, xp.inf).min(-2)
        high = xp.where(mask[..., None], points, -xp.inf).max(-2)
        found = mask.any(-1)[..., None]
        sides = xp.where(found, high, 0) - xp.where(found, low, 0)
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
    """The median of the sizes that there are."""
    xp = namespace(points, mask)
    sizes, sized = _sizes(points, mask, layout, by)
    count = sized.sum()
    ordered = xp.sort(xp.where(sized, sizes, xp.inf))
    low, high = xp.maximum(count - 1, 0) // 2, xp.minimum(count // 2, len(sizes) - 1)
    middle = (xp.take(ordered, low) + xp.take(ordered, high)) / 2
    return xp.where(count > 0, middle, xp.nan)
