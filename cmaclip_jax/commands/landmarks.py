"""cmaclip landmarks: how accurate and how still facial landmarks are, and why."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser
from cmaclip_jax.commands.landmark_noise import run_noise
from cmaclip_jax.commands.landmark_study import run_study
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import whole_file

HELP = """\
Measures the stability of the facial landmarks of a video, with a ground truth or without one;
learns the noise of annotations from faces that several annotated; and studies which noise hurts a
detector of landmarks, and which remedy helps.

  cmaclip landmarks stability --predictions=FILE [--truth=FILE] [--plot=FILE.png] [--json]
  cmaclip landmarks noise --annotations=FILE --annotations=FILE [...] [--output=FILE.json] [--json]
  cmaclip landmarks study --config=configs/landmarks.py [--workdir=DIR] [--config.FIELD=VALUE ...]

cmaclip landmarks VERB --help says what a verb takes.
"""

STABILITY = """\
Says how accurate the landmarks of a video are, and how still they stand. The formulas are our own
choice. Distances are shares of the face's size:
  --normalise=eyes   the distance of the outer eye corners; where the layout has no known eyes, the
                     points' root mean square distance from their centre
  --normalise=box    the square root of width times height of the upright box around the points
Jitter needs no truth. A point's deviation is its distance from halfway between its places in the
frame before and in the frame after, divided by the median of the face's size over the frames. Two
figures sum the deviations up:
  root mean square   over all frames and points; a few frames thrown far away can be most of it
  median             over the frames, of each frame's root mean square over its points; a few frames
                     do not move it
A frame is lost if it has no point, or if it jumps: its points stand, in root mean square, more than
10 % of the face's size away from halfway between their places 1 frame before and after, 2 frames
before and after, and 3 frames before and after. So a jump that lasts one frame or two is found.
With --truth come the mean distance from it, by the face's size in that frame, and the mean distance
between a point's motion to the next frame and its true motion.

FILE is one of
  a folder    of iBUG's .pts files or 300W-LP's .mat files, one a frame
  .csv .tsv   frame,x0,y0,x1,y1,... a row a frame, or frame,point,x,y a row a point
  .npz        an array `points` [frames, points, 2], and `valid` [frames] if some do not count
  .mat        an array [frames, points, 2], [2, points, frames] or [points, 2, frames], under any
              name; or COFW's phisTr, phisT or phis, or 300W-LP's pt2d
What is NaN, empty, or in a table at (0, 0) is missing. Frames come in the order of their names.
"""

# What a figure is called in the table.
FIGURES = {
    "nme": "mean error against the truth",
    "failure_rate_at_0.10": "share of frames with an error above 10 %",
    "auc_at_0.10": "area under the curve of errors up to 10 %",
    "motion_error": "wrong motion from frame to frame, against the truth",
    "midpoint_jitter": "jitter: from the midpoint of the neighbours in time, root mean square",
    "median_jitter": "the same, median over frames",
    "lost_frames": "share of frames lost: without a point, or a jump",
}
PLAIN = ("auc_at_0.10",)  # not a percentage
UNAIDED = ("midpoint_jitter", "median_jitter", "lost_frames")  # they take no truth


def run(arguments: list[str]) -> None:
    """Finds the verb and runs it."""
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in VERBS:
            raise UserError(f"unknown verb {arguments[0]!r}; there is {', '.join(VERBS)}")
        VERBS[arguments[0]](arguments[1:])
        return
    make_parser("landmarks", HELP).parse_args(arguments)
    raise UserError(f"say what to do: cmaclip landmarks {' | '.join(VERBS)}")


def run_stability(arguments: list[str]) -> None:
    """Reads the arguments and judges."""
    parser = make_parser("landmarks stability", STABILITY)
    parser.add_argument("--predictions", required=True, metavar="FILE", help="what was detected")
    parser.add_argument("--truth", metavar="FILE", help="the same frames as they should be")
    parser.add_argument(
        "--normalise",
        choices=("eyes", "box"),
        default="eyes",
        help="what the face's size is (default: eyes)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="where to draw it")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    stability(parser.parse_args(arguments))


def stability(options):
    """Judges, prints and draws; returns what was found."""
    from cmaclip_jax.landmarks.stability import judge  # takes a second to import
    from cmaclip_jax.landmarks.tracks import read_points

    if options.plot:
        check_plot(options.plot)
    predictions = read_points(options.predictions)
    truth = read_points(options.truth) if options.truth else None
    found = judge(predictions, truth, options.normalise)
    frames, points, _ = predictions.points.shape
    if options.json:
        sizes = {"frames": frames, "points": points}
        sizes |= {"normalised_by": found.by, "face_size": found.size, "missing": found.missing}
        print(json.dumps(sizes | found.figures, indent=1))
    else:
        show(
            found, predictions.layout, f"{options.predictions}: {frames:,} frames, {points} points"
        )
    if options.plot:
        from cmaclip_jax.landmarks.stability_plot import draw

        figure = draw(found, predictions.layout, f"Stability of {Path(options.predictions).name}")
        with whole_file(options.plot) as part:
            figure.savefig(part)
        if not options.json:
            print(f"written to {options.plot}")
    return found


def show(found, layout, title: str) -> None:
    """A table of the figures, and a line on what was missing."""
    from cmaclip_jax.evaluation.tables import text_table  # takes seconds to import
    from cmaclip_jax.screen import Screen

    screen = Screen(sys.stdout)
    screen.show(text_table(cells(found), title))
    line = f"missing: {counted(found.missing, '')}"
    if "truth_frames" in found.missing:
        line += f"; of the truth {counted(found.missing, 'truth_')}"
    screen.say(line)
    screen.say(size_line(found, layout))


def size_line(found, layout) -> str:
    """What the figures are shares of."""
    if found.by == "box":
        size = "the root of the area of the box around the points"
    elif layout is None or not layout.eyes:
        size = (
            "the points' root mean square distance from their centre, since this is a layout "
            "without known eyes"
        )
    else:
        size = "the distance of the outer eye corners"
    pixels = "" if found.size is None else f", {found.size:,.1f} pixels in the median over frames"
    return f"shares of the face's size: {size}{pixels} (--normalise={found.by})"


def cells(found) -> Iterator[list[str]]:
    """A head, and a line per figure; those that take a truth are left out without one."""
    yield ["measure", "value"]
    for name, what in FIGURES.items():
        value = found.figures[name]
        if value is None and found.errors is None and name not in UNAIDED:
            continue
        yield [what, "-" if value is None else f"{value:.3f}" if name in PLAIN else f"{value:.2%}"]


def counted(missing: dict[str, int], whose: str) -> str:
    """'2 frames, and 5 points of the others'."""
    frames, points = missing[whose + "frames"], missing[whose + "points"]
    return (
        f"{frames:,} frame{'s' * (frames != 1)}, and "
        f"{points:,} point{'s' * (points != 1)} of the others"
    )


def check_plot(path: Path) -> None:
    """Refuses what matplotlib would, before anything is read."""
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--plot={path}: name a .png, .pdf or .svg")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--plot={path}: its folder is not there; make it first")


VERBS = {"stability": run_stability, "noise": run_noise, "study": run_study}
