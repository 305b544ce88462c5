"""Scores of a detector: the accuracy and the stability of its points."""

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

Detect = Callable[[np.ndarray], np.ndarray]  # pictures u8 [N,S,S,3] -> points [N,P,2], 0 to 1
VIEWS, NUDGE = 8, 2  # views of a still, and their largest shift in pixels; our choice
STILLS = 50  # faces that `still_jitter` is measured on


@dataclasses.dataclass(frozen=True)
class DetectorScores:
    """Shares of the outer eye distance; `failures` is a share of the faces.

    nme, failures: of stills. motion_error: of videos, against the truth. midpoint_jitter: of
    videos, without the truth. still_jitter: of slightly shifted views of a still.
    """

    nme: float
    failures: float
    motion_error: float
    midpoint_jitter: float
    still_jitter: float


def score_detector(
    detect: Detect, test: AnnotatedFaces, videos: Sequence[AnnotatedFaces]
) -> DetectorScores:
    """The scores of a detector on the stills `test` and on `videos`."""
    layout = layout_of(test.points.shape[1])
    errors = normalised_errors(detect(test.images), test.points, layout)
    tracks = _each(detect, [video.images for video in videos])
    motion = [motion_error(p, v.points, layout) for p, v in zip(tracks, videos, strict=True)]
    jitter = [midpoint_jitter(points, layout) for points in tracks]
    still = [still_jitter(views, layout) for views in _still_views(detect, test.images[:STILLS])]
    return DetectorScores(
        nme=float(nme(errors)),
        failures=float(failure_rate(errors)),
        motion_error=float(np.mean(motion)),
        midpoint_jitter=float(np.mean(jitter)),
        still_jitter=float(np.mean(still)),
    )


def _each(detect: Detect, parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The points in several arrays of pictures, from one call of `detect`."""
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return np.split(detect(np.concatenate(parts)), ends)


def _still_views(detect: Detect, images: np.ndarray) -> list[np.ndarray]:
    """The points in shifted views of each face, with the shift undone: [views,P,2] each."""
    size = images.shape[1]
    shifts = np.random.default_rng(0).integers(-NUDGE, NUDGE + 1, (VIEWS, 2))
    padded = np.pad(images, ((0, 0), (NUDGE, NUDGE), (NUDGE, NUDGE), (0, 0)), mode="edge")
    views = [
        padded[:, NUDGE - y : NUDGE - y + size, NUDGE - x : NUDGE - x + size] for x, y in shifts
    ]
    tracks = _each(detect, list(np.stack(views, axis=1)))
    return [points - shifts[:, None] / size for points in tracks]
