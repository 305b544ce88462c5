"""The stability of one video: its figures, their table and their plot."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.landmarks import metrics
from cmaclip_jax.landmarks.layouts import Layout
from cmaclip_jax.landmarks.text_points import natural
from cmaclip_jax.landmarks.tracks import Track

JUMP = 0.1  # of the face's size
APART = (1, 2, 3)  # frames
# The figures that need a truth, those that do not, and their names in the table.
WITH_TRUTH = {
    "nme": "mean error against the truth",
    "failure_rate_at_0.10": "share of frames with an error above 10 %",
    "auc_at_0.10": "area under the curve of errors up to 10 %",
    "motion_error": "wrong motion from frame to frame, against the truth",
}
WITHOUT_TRUTH = {
    "midpoint_jitter": "jitter: from the midpoint of the neighbours in time, root mean square",
    "median_jitter": "the same, median over frames",
    "lost_frames": "share of frames lost: without a point, or a jump",
}
NO_PERCENTAGE = ("auc_at_0.10",)


@dataclasses.dataclass(frozen=True)
class Stability:
    """The figures of a video, in shares of the face's size.

    figures: by the names of WITH_TRUTH, which are None without a truth, and WITHOUT_TRUTH.
    missing: how many frames, and points of the other frames, are missing.
    by: how the face's size is measured. size: its median over the frames, in pixels.
    errors: [F] the normalised error of every frame; None without a truth.
    jitter: [F], NaN at both ends and beside missing frames. point_jitter: [P].
    face: [P,2] the mean face, centred, of size one.
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
    """Measures predictions, with a truth or without one."""
    layout, points = predictions.layout, predictions.points
    figures: dict[str, float | None] = dict.fromkeys(WITH_TRUTH)
    missing = {"frames": predictions.missing_frames, "points": predictions.missing_points}
    errors = None
    if truth is not None:
        check_same(predictions, truth)
        missing["truth_frames"] = truth.missing_frames
        missing["truth_points"] = truth.missing_points
        errors = metrics.normalised_errors(points, truth.points, layout, by=by)
        values = (
            metrics.nme(errors),
            metrics.failure_rate(errors),
            metrics.auc(errors),
            metrics.motion_error(points, truth.points, layout, by=by),
        )
        figures = {name: _plain(value) for name, value in zip(figures, values, strict=True)}
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

    A frame jumps if its points are, in root mean square, more than JUMP away from the midpoint of
    their neighbours at each of the distances APART. A frame beside a jump is near one of these
    midpoints. This rule does not find a jump that lasts longer than two frames, and it cannot
    judge frames without neighbours on both sides.
    """
    nearest = np.full(len(track.points), np.nan)
    for apart in APART:
        nearest = np.fmin(nearest, frame_jitter(track, by, apart))
    return ~track.valid | (nearest > JUMP)


def _median(values: np.ndarray) -> float:
    """The median of the values that are not NaN."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def check_same(
    predictions: Track, truth: Track, one: str = "the predictions", other: str = "the truth"
) -> None:
    """Raises UserError unless both tracks have the same points of the same frames.

    one, other: what the message calls the two tracks.
    """
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
    """The mean positions of the points around their centre, in shares of the size: [P,2]."""
    sizes = metrics.face_sizes(track.points, track.layout)[:, None, None]
    centred = track.points - metrics.mean_where(track.points, np.isfinite(track.points), 1)[:, None]
    return metrics.mean_where(centred / sizes, np.isfinite(centred / sizes), 0)


def _bare(name: str) -> tuple:
    """A frame's name without the ending of a picture, as a sort key; 7 and 0007 are equal."""
    return natural(re.sub(r"\.(jpe?g|png|bmp|pts|mat)$", "", name, flags=re.IGNORECASE))


def _plain(value) -> float | None:
    """A Python number, or None for NaN."""
    return None if np.isnan(value) else float(value)


def table_cells(stability: Stability) -> Iterator[list[str]]:
    """The table's head, and a line per figure; without a truth only WITHOUT_TRUTH."""
    yield ["measure", "value"]
    measures = WITHOUT_TRUTH if stability.errors is None else WITH_TRUTH | WITHOUT_TRUTH
    for name, label in measures.items():
        value = stability.figures[name]
        style = ".3f" if name in NO_PERCENTAGE else ".2%"
        yield [label, "-" if value is None else format(value, style)]


def missing_line(missing: dict[str, int]) -> str:
    """'missing: 2 frames, and 5 points of the others', and the same of the truth."""

    def counted(prefix: str) -> str:
        frames, points = missing[prefix + "frames"], missing[prefix + "points"]
        return (
            f"{frames:,} frame{'s' * (frames != 1)}, and "
            f"{points:,} point{'s' * (points != 1)} of the others"
        )

    of_truth = f"; of the truth {counted('truth_')}" if "truth_frames" in missing else ""
    return f"missing: {counted('')}{of_truth}"


def size_line(stability: Stability, layout: Layout | None) -> str:
    """Which size the figures are shares of."""
    size = "the distance of the outer eye corners"
    if stability.by == "box":
        size = "the square root of the area of the box around the points"
    elif layout is None or not layout.eyes:
        size = (
            "the points' root mean square distance from their centre, since this is a layout "
            "without known eyes"
        )
    pixels = "" if stability.size is None else f", {stability.size:,.1f} pixels (median of frames)"
    return f"shares of the face's size: {size}{pixels} (--normalise={stability.by})"


def draw(stability: Stability, layout: Layout | None, title: str) -> Any:
    """Left the error (with a truth) and the jitter per frame, right the jitter per point."""
    from matplotlib.figure import Figure  # takes seconds to import

    figure = Figure((10, 4.4), dpi=130, layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    over_time, on_face = halves
    series = [
        ("jitter: deviation from the midpoint of the neighbours in time", stability.jitter, "C1")
    ]
    if stability.errors is not None:
        series.insert(0, ("error against the truth", stability.errors, "C0"))
    rows = over_time.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values, colour) in zip(rows, series, strict=True):
        _draw_series(axes, values, colour)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_ylabel("% of the face's size", fontsize=8)
    rows[-1].set_xlabel("frame", fontsize=8)
    _draw_face(on_face, stability, layout)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_series(axes, values: np.ndarray, colour: str) -> None:
    """Draws a line with gaps where values are NaN."""
    is_short = len(values) < 60
    axes.plot(100 * values, color=colour, lw=1, marker="o" if is_short else None, ms=3)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
    if missing := int(np.isnan(values).sum()):
        label = f"{missing} of {len(values)} frames without a value"
        axes.set_title(label, fontsize=7, loc="right", color="grey")


def _draw_face(figure, stability: Stability, layout: Layout | None) -> None:
    """Draws the mean face: the points coloured by jitter, the three worst numbered."""
    axes, face = figure.subplots(), stability.face
    for points, closed in layout.contours if layout else ():
        order = list(points) + [points[0]] * closed
        axes.plot(*face[order].T, color="lightgrey", lw=1, zorder=1)
    dots = axes.scatter(*face.T, c=100 * stability.point_jitter, s=26, cmap="viridis", zorder=2)
    worst = np.argsort(np.nan_to_num(stability.point_jitter, nan=-1))[::-1][:3]
    for point in worst:
        axes.annotate(
            str(point), face[point], xytext=(5, 4), textcoords="offset points", fontsize=8
        )
    axes.set_aspect("equal")
    axes.invert_yaxis()  # pictures count rows downwards
    axes.set_axis_off()
    axes.set_title(
        "jitter of every point, on the mean face\n(the three worst are numbered)", fontsize=9
    )
    bar = figure.colorbar(dots, ax=axes, shrink=0.8)
    bar.set_label("% of the face's size", fontsize=8)
    bar.ax.tick_params(labelsize=8)
