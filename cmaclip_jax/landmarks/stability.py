"""One video judged: how accurate its points are, how still, and what was missing."""

import dataclasses
import re

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks import metrics
from cmaclip_jax.landmarks.arrays import mean_where
from cmaclip_jax.landmarks.text_points import natural
from cmaclip_jax.landmarks.tracks import Track

JUMP = 0.1  # of the face's size
APART = (1, 2, 3)  # frames


@dataclasses.dataclass(frozen=True)
class Stability:
    """Figures are shares of the face's size; those against a truth are None without one.

    by: what was taken for the face's size. size: its median over the frames, in pixels.
    errors: [F] the normalised error of every frame, or None. jitter: [F], NaN at the ends and
        beside gaps. point_jitter: [P]. face: [P,2] the mean face, centred, of size one.
    """

    figures: dict[str, float | None]
    missing: dict[str, int]
    by: str
    size: float | None
    errors: np.ndarray | None
    jitter: np.ndarray
    point_jitter: np.ndarray
    face: np.ndarray


def judge(predictions: Track, truth: Track | None = None, by: str = "eyes") -> Stability:
    """All that can be said of predictions, with a truth or without one."""
    layout, points = predictions.layout, predictions.points
    figures: dict[str, float | None] = dict.fromkeys(
        ("nme", "failure_rate_at_0.10", "auc_at_0.10", "motion_error")
    )
    missing = {"frames": predictions.missing_frames, "points": predictions.missing_points}
    errors = None
    if truth is not None:
        check_same(predictions, truth)
        missing["truth_frames"] = truth.missing_frames
        missing["truth_points"] = truth.missing_points
        errors = metrics.normalised_errors(points, truth.points, layout, by=by)
        found = (
            metrics.nme(errors),
            metrics.failure_rate(errors),
            metrics.auc(errors),
            metrics.motion_error(points, truth.points, layout, by=by),
        )
        figures = {name: _plain(value) for name, value in zip(figures, found, strict=True)}
    jitter = frame_jitter(predictions, by)
    figures["midpoint_jitter"] = _plain(metrics.midpoint_jitter(points, layout, by=by))
    figures["median_jitter"] = _plain(_median(jitter))
    figures["lost_frames"] = float(lost_frames(predictions, by).mean())
    return Stability(
        figures=figures,
        missing=missing,
        by=by,
        size=_plain(metrics.typical_size(points, layout, by=by)),
        errors=errors,
        jitter=jitter,
        point_jitter=metrics.midpoint_jitter(points, layout, axis=0, by=by),
        face=mean_face(predictions if truth is None else truth),
    )


def frame_jitter(track: Track, by: str = "eyes", apart: int = 1) -> np.ndarray:
    """The jitter of every frame [F], NaN where a neighbour is missing."""
    jitter = np.full(len(track.points), np.nan)
    if len(jitter) > 2 * apart:
        jitter[apart:-apart] = metrics.midpoint_jitter(
            track.points, track.layout, axis=1, by=by, apart=apart
        )
    return jitter


def lost_frames(track: Track, by: str = "eyes") -> np.ndarray:
    """Which frames are lost [F]: those without a point, and those that jump away and back.

    A frame jumps where its points are, in root mean square, more than JUMP away from halfway
    between their neighbours, whichever of APART they are. A frame beside a jump is near one of
    these midpoints. A jump that lasts longer than two frames is none by this rule, and frames
    without neighbours on both sides cannot be judged.
    """
    nearest = np.full(len(track.points), np.nan)
    for apart in APART:
        nearest = np.fmin(nearest, frame_jitter(track, by, apart))
    return ~track.valid | (nearest > JUMP)


def _median(values: np.ndarray) -> float:
    """The median of what is known."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def check_same(
    predictions: Track, truth: Track, one: str = "the predictions", other: str = "the truth"
) -> None:
    """Both should hold the same points of the same frames; `one` and `other` are their names."""
    (frames, points, _), (wanted, count, _) = predictions.points.shape, truth.points.shape
    if points != count:
        raise UserError(f"{one} have {points} points and {other} {count}; give both in one layout")
    if frames != wanted:
        raise UserError(
            f"{one} have {frames} frames and {other} {wanted}; give the same frames, and leave "
            "the points of one without a face empty"
        )
    if not (predictions.named and truth.named):
        return
    pairs = zip(predictions.names, truth.names, strict=True)
    if odd := next((pair for pair in pairs if _bare(pair[0]) != _bare(pair[1])), None):
        raise UserError(
            f"{one} have a frame {odd[0]!r} and {other} {odd[1]!r} in its place; name the same "
            "frames alike"
        )


def mean_face(track: Track) -> np.ndarray:
    """Where the points stand on average, about their centre, as shares of the size: [P,2]."""
    sizes = metrics.face_sizes(track.points, track.layout)[:, None, None]
    centred = track.points - mean_where(track.points, np.isfinite(track.points), 1)[:, None]
    return mean_where(centred / sizes, np.isfinite(centred / sizes), 0)


def _bare(name: str) -> tuple:
    """A frame's name without a picture's ending; 7 and 0007 are one."""
    return natural(re.sub(r"\.(jpe?g|png|bmp|pts|mat)$", "", name, flags=re.IGNORECASE))


def _plain(value) -> float | None:
    """A figure for people and for JSON."""
    return None if np.isnan(value) else float(value)
