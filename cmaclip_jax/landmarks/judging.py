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
from cmaclip_jax.landmarks.pictures import Marked

VIEWS, NUDGE = 8, 2  # looks at one face, each moved by up to so many pixels; our choice


@dataclasses.dataclass(frozen=True)
class Judged:
    """All as shares of the outer eye distance, but for `failures`, a share of the faces.

    nme, failures: on stills. motion_error: of videos, against the truth. midpoint_jitter: of
    videos, without it. still_jitter: of one face looked at again and again.
    """

    nme: float
    failures: float
    motion_error: float
    midpoint_jitter: float
    still_jitter: float


def judge_detector(
    detect: Callable[[np.ndarray], np.ndarray], test: Marked, videos: Sequence[Marked]
) -> Judged:
    """detect: pictures u8 [N,S,S,3] -> points [N,P,2], 0 to 1 is the picture."""
    layout = layout_of(test.points.shape[1])
    errors = normalised_errors(detect(test.images), test.points, layout)
    seen = [detect(video.images) for video in videos]
    moved = [motion_error(p, v.points, layout) for p, v in zip(seen, videos, strict=True)]
    shaken = [midpoint_jitter(points, layout) for points in seen]
    still = [still_jitter(_views(detect, image), layout) for image in test.images[:50]]
    return Judged(
        nme=float(nme(errors)),
        failures=float(failure_rate(errors)),
        motion_error=float(np.mean(moved)),
        midpoint_jitter=float(np.mean(shaken)),
        still_jitter=float(np.mean(still)),
    )


def _views(detect: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """One face found in views that are moved a little, and moved back: [views,P,2]."""
    random = np.random.default_rng(0)
    shifts = random.integers(-NUDGE, NUDGE + 1, (VIEWS, 2))
    padded = np.pad(image, ((NUDGE, NUDGE), (NUDGE, NUDGE), (0, 0)), mode="edge")
    size = len(image)
    views = [padded[NUDGE - y : NUDGE - y + size, NUDGE - x : NUDGE - x + size] for x, y in shifts]
    return detect(np.stack(views)) - shifts[:, None] / size
