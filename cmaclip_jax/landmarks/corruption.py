"""Six kinds of annotation noise to train with, comparable in size.

The kinds are our own reconstruction; the paper studies several and does not name them to us.
A strength is the root mean square length of a displacement, as a share of the face's size, and
is the same for every kind: on average over draws, and for the two biases exactly, as they are
scaled to it over the points. Kinds differ in where the error goes, not in how much there is.
Every function is deterministic given its seed and leaves its argument as it is; points that
are missing (NaN) stay so.
"""

from collections.abc import Callable

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks.contour import tangents
from cmaclip_jax.landmarks.layouts import Layout
from cmaclip_jax.landmarks.metrics import face_sizes

OUTLIERS = 0.05  # the share of the points that 'outliers' moves, the others stay in place
ANNOTATORS = 5  # among whom 'annotators' deals out the faces, where nobody says who did which
MEMORY = 0.95  # how much of an offset of 'drift' stays to the next frame


def isotropic(points, layout: Layout | None, seed: int) -> np.ndarray:
    """Every point on its own, as likely in one direction as in any other."""
    return _white(np.random.default_rng(seed), points.shape)


def contour(points, layout: Layout | None, seed: int) -> np.ndarray:
    """Every point on its own, along its contour only."""
    along = np.random.default_rng(seed).standard_normal((*points.shape[:2], 1))
    return along * tangents(points, layout)


def bias(points, layout: Layout | None, seed: int) -> np.ndarray:
    """One constant offset per point, in the picture's axes, the same for all faces."""
    return np.broadcast_to(_offsets(seed, points.shape[1]), points.shape)


def annotators(points, layout: Layout | None, seed: int, who=None) -> np.ndarray:
    """One such offset per point and annotator. who: [N], a number for every face's annotator."""
    if who is None:
        who = np.random.default_rng(seed).integers(ANNOTATORS, size=len(points))
    who = np.asarray(who)
    if who.shape != (len(points),):
        raise UserError(f"{who.size} annotators are named for {len(points)} faces; name one a face")
    ids, places = np.unique(who, return_inverse=True)
    return np.stack([_offsets([seed, int(one)], points.shape[1]) for one in ids])[places]


def outliers(points, layout: Layout | None, seed: int) -> np.ndarray:
    """A share OUTLIERS of the points far off, the others where they belong."""
    rng = np.random.default_rng(seed)
    struck = rng.random((*points.shape[:2], 1)) < OUTLIERS
    return struck * _white(rng, points.shape) / np.sqrt(OUTLIERS)


def drift(points, layout: Layout | None, seed: int) -> np.ndarray:
    """An offset per point that wanders from frame to frame: AR(1) with the coefficient MEMORY."""
    fresh = _white(np.random.default_rng(seed), points.shape)
    offsets = np.empty_like(fresh)
    offsets[:1] = fresh[:1]  # as large as all that follow
    for frame in range(1, len(points)):
        offsets[frame] = MEMORY * offsets[frame - 1] + np.sqrt(1 - MEMORY**2) * fresh[frame]
    return offsets


# Each gives displacements [N,P,2] whose root mean square length is one.
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
    """Faces, or the frames of a video, with noise: [N,P,2] -> [N,P,2].

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
    """Gaussian vectors of root mean square length one."""
    return rng.standard_normal(shape) / np.sqrt(2)


def _offsets(seed, count: int) -> np.ndarray:
    """One vector a point, their root mean square length one exactly: [P,2]."""
    offsets = _white(np.random.default_rng(seed), (count, 2))
    return offsets / np.sqrt((offsets**2).sum(-1).mean())


def filled_sizes(points: np.ndarray, layout: Layout | None) -> np.ndarray:
    """Sizes of the faces, that of the others where one has none (an eye is missing): [N,1,1]."""
    sizes = face_sizes(points, layout)
    known = np.isfinite(sizes)
    typical = np.median(sizes[known]) if known.any() else np.nan
    return np.where(known, sizes, typical)[:, None, None]
