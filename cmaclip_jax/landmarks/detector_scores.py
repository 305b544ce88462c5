"""A detector judged by the truth: how near its points are, and how still they stand."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from cmaclip_jax.landmarks.layouts import layout_of
from cmaclip_jax.landmarks.metrics import (
    failure_rate,
    midpoint_jitter,
    motion_error,
    nme,
    normalised_errors,
    still_jitter,
)
from cmaclip_jax.landmarks.pictures import AnnotatedFaces

VIEWS, NUDGE = 8, 2  # looks at one face, each moved by up to so many pixels; our choice
LOOKED_AT = 50  # faces


@dataclasses.dataclass(frozen=True)
class DetectorScores:
    """All as shares of the outer eye distance, but for `failures`, a share of the faces.

    nme, failures: on stills. motion_error: of videos, against the truth. midpoint_jitter: of
    videos, without it. still_jitter: of one face looked at again and again.
    """

    nme: float
    failures: float
    motion_error: float
    midpoint_jitter: float
    still_jitter: float


def score_detector(
    detect: Callable[[np.ndarray], np.ndarray],
    test: AnnotatedFaces,
    videos: Sequence[AnnotatedFaces],
) -> DetectorScores:
    """detect: pictures u8 [N,S,S,3] -> points [N,P,2], 0 to 1 is the picture."""
    layout = layout_of(test.points.shape[1])
    errors = normalised_errors(detect(test.images), test.points, layout)
    seen = _each(detect, [video.images for video in videos])
    moved = [motion_error(p, v.points, layout) for p, v in zip(seen, videos, strict=True)]
    shaken = [midpoint_jitter(points, layout) for points in seen]
    still = [still_jitter(views, layout) for views in _still_views(detect, test.images[:LOOKED_AT])]
    return DetectorScores(
        nme=float(nme(errors)),
        failures=float(failure_rate(errors)),
        motion_error=float(np.mean(moved)),
        midpoint_jitter=float(np.mean(shaken)),
        still_jitter=float(np.mean(still)),
    )


def _each(
    detect: Callable[[np.ndarray], np.ndarray], parts: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The points of several arrays of pictures, found in one go."""
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return np.split(detect(np.concatenate(parts)), ends)


def _still_views(
    detect: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> list[np.ndarray]:
    """Every face found in views that are moved a little, and moved back: [views,P,2] each."""
    size = images.shape[1]
    shifts = np.random.default_rng(0).integers(-NUDGE, NUDGE + 1, (VIEWS, 2))
    padded = np.pad(images, ((0, 0), (NUDGE, NUDGE), (NUDGE, NUDGE), (0, 0)), mode="edge")
    views = [
        padded[:, NUDGE - y : NUDGE - y + size, NUDGE - x : NUDGE - x + size] for x, y in shifts
    ]
    found = _each(detect, list(np.stack(views, axis=1)))
    return [points - shifts[:, None] / size for points in found]
