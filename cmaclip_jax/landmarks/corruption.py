"""Six kinds of annotation noise to train with, comparable in size.

The kinds are our own choice; the paper's abstract does not name its kinds. The strength is the root
mean square length of a displacement, in shares of the face's size. All kinds have the same strength
on average over draws; the two biases have it exactly, as they are scaled over the points. Kinds
differ in direction and distribution, not in size. Every function is deterministic for a seed and
does not change its argument. Missing points (NaN) stay missing.
"""

from collections.abc import Callable

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.contour import tangents
from cmaclip_jax.landmarks.layouts import Layout
from cmaclip_jax.landmarks.metrics import face_sizes

OUTLIERS = 0.05  # the share of the points that 'outliers' moves
ANNOTATORS = 5  # how many 'annotators' shares the faces among if the caller does not assign them
MEMORY = 0.95  # coefficient of the AR(1) process of 'drift'


def isotropic(points, layout: Layout | None, seed: int) -> np.ndarray:
    """Independent displacements of all points, equally likely in every direction."""
    return _white(np.random.default_rng(seed), points.shape)


def contour(points, layout: Layout | None, seed: int) -> np.ndarray:
    """Independent displacements of all points, along the contour only."""
    along = np.random.default_rng(seed).standard_normal((*points.shape[:2], 1))
    return along * tangents(points, layout)


def bias(points, layout: Layout | None, seed: int) -> np.ndarray:
    """One constant offset per point, in picture axes, the same for all faces."""
    return np.broadcast_to(_offsets(seed, points.shape[1]), points.shape)


def annotators(points, layout: Layout | None, seed: int, who=None) -> np.ndarray:
    """One constant offset per point and annotator. who: [N] the number of each face's annotator."""
    if who is None:
        who = np.random.default_rng(seed).integers(ANNOTATORS, size=len(points))
    who = np.asarray(who)
    if who.shape != (len(points),):
        raise UserError(f"{who.size} annotators are named for {len(points)} faces; name one a face")
    ids, places = np.unique(who, return_inverse=True)
    return np.stack([_offsets([seed, int(one)], points.shape[1]) for one in ids])[places]


def outliers(points, layout: Layout | None, seed: int) -> np.ndarray:
    """Large displacements of a share OUTLIERS of the points; the others do not move."""
    rng = np.random.default_rng(seed)
    struck = rng.random((*points.shape[:2], 1)) < OUTLIERS
    return struck * _white(rng, points.shape) / np.sqrt(OUTLIERS)


def drift(points, layout: Layout | None, seed: int) -> np.ndarray:
    """Offsets per point that change from frame to frame as AR(1) with the coefficient MEMORY."""
    fresh = _white(np.random.default_rng(seed), points.shape)
    offsets = np.empty_like(fresh)
    offsets[:1] = fresh[:1]  # with the variance of all later frames
    for frame in range(1, len(points)):
        offsets[frame] = MEMORY * offsets[frame - 1] + np.sqrt(1 - MEMORY**2) * fresh[frame]
    return offsets


# Each returns displacements [N,P,2] with a root mean square length of one.
KINDS: dict[str, Callable[..., np.ndarray]] = {
    "isotropic": isotropic,
    "contour": contour,
    "bias": bias,
    "annotators": annotators,
    "outliers": outliers,
    "drift": drift,
}


def corrupt(
    points, kind: str, strength: float, seed: int, layout: Layout | None, who=None
) -> np.ndarray:
    """Adds noise to faces, or to the frames of a video: [N,P,2] -> [N,P,2].

    strength: the root mean square displacement as a share of the face's size.
    who: [N] the annotator of every face, for 'annotators'.
    """
    if kind not in KINDS:
        raise UserError(f"there is no noise {kind!r}; there is {', '.join(KINDS)}")
    if strength < 0:
        raise UserError(f"the strength of a noise is {strength}; it cannot be below 0")
    points = np.asarray(points, np.float64)
    more = {"who": who} if kind == "annotators" else {}
    noise = strength * KINDS[kind](points, layout, seed, **more)
    return points + noise * filled_sizes(points, layout)


def _white(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian vectors with a root mean square length of one."""
    return rng.standard_normal(shape) / np.sqrt(2)


def _offsets(seed, count: int) -> np.ndarray:
    """One vector per point; their root mean square length is exactly one: [P,2]."""
    offsets = _white(np.random.default_rng(seed), (count, 2))
    return offsets / np.sqrt((offsets**2).sum(-1).mean())


def filled_sizes(points: np.ndarray, layout: Layout | None) -> np.ndarray:
    """Sizes of the faces, the median size for a face without one (an eye is missing): [N,1,1]."""
    sizes = face_sizes(points, layout)
    known = np.isfinite(sizes)
    typical = np.median(sizes[known]) if known.any() else np.nan
    return np.where(known, sizes, typical)[:, None, None]
