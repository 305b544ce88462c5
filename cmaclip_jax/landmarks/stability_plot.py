"""The picture of a video's stability: over time, and on the face."""

from typing import Any

import numpy as np

from cmaclip_jax.landmarks.layouts import Layout
from cmaclip_jax.landmarks.stability import Stability

PERCENT = 100


def draw(found: Stability, layout: Layout | None, title: str):
    """Left the error (with a truth) and the jitter of every frame, right that of every point."""
    from matplotlib.figure import Figure

    figure = Figure((10, 4.4), dpi=130, layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    over_time, on_face = halves
    series = [("jitter: deviation from the midpoint of the neighbours in time", found.jitter, "C1")]
    if found.errors is not None:
        series.insert(0, ("error against the truth", found.errors, "C0"))
    rows = over_time.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values, colour) in zip(rows, series, strict=True):
        _draw_series(axes, values, colour)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_ylabel("% of the face's size", fontsize=8)
    rows[-1].set_xlabel("frame", fontsize=8)
    _draw_face(on_face, found, layout)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_series(axes, values: np.ndarray, colour: str) -> None:
    """A line with gaps where nothing is known."""
    few = len(values) < 60
    axes.plot(PERCENT * values, color=colour, lw=1, marker="o" if few else None, ms=3)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
    if missing := int(np.isnan(values).sum()):
        label = f"{missing} of {len(values)} frames without a value"
        axes.set_title(label, fontsize=7, loc="right", color="grey")


def _draw_face(figure, found: Stability, layout: Layout | None) -> None:
    """The mean face, its points coloured by their own jitter and the worst three numbered."""
    axes, face = figure.subplots(), found.face
    for points, closed in layout.contours if layout else ():
        order = list(points) + [points[0]] * closed
        axes.plot(*face[order].T, color="lightgrey", lw=1, zorder=1)
    shown = axes.scatter(*face.T, c=PERCENT * found.point_jitter, s=26, cmap="viridis", zorder=2)
    worst = np.argsort(np.nan_to_num(found.point_jitter, nan=-1))[::-1][:3]
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
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("% of the face's size", fontsize=8)
    bar.ax.tick_params(labelsize=8)
