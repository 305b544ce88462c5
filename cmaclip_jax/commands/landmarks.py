"""cmaclip landmarks: the accuracy and the stability of facial landmarks, and annotation noise."""

import json
import sys
from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser
from cmaclip_jax.commands.landmark_noise import run_noise
from cmaclip_jax.commands.landmark_study import run_study
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import whole_file
from cmaclip_jax.screen import Screen, text_table

HELP = """\
Measures the stability of facial landmarks in a video, with a ground truth or without one; learns
the noise of annotations from faces that several people annotated; and studies which noise hurts a
landmark detector and which remedy helps.

  cmaclip landmarks stability --predictions=FILE [--truth=FILE] [--plot=FILE.png] [--json]
  cmaclip landmarks noise --annotations=FILE --annotations=FILE [...] [--output=FILE.json] [--json]
  cmaclip landmarks study --config=configs/landmarks.py [--workdir=DIR] [--config.FIELD=VALUE ...]

cmaclip landmarks VERB --help lists the arguments of a verb.
"""

STABILITY = """\
Measures how accurate and how stable the landmarks of a video are. The formulas are our own choice.
Distances are shares of the face's size:
  --normalise=eyes   the distance of the outer eye corners; where the layout has no known eyes, the
                     points' root mean square distance from their centre
  --normalise=box    the square root of width times height of the upright box around the points
Jitter needs no truth. A point's deviation is its distance from the midpoint of its positions in the
frame before and in the frame after, divided by the median of the face's size over the frames. Two
figures summarise the deviations:
  root mean square   over all frames and points; a few frames with large errors can dominate it
  median             over the frames, of each frame's root mean square over its points; a few frames
                     do not change it
A frame is lost if it has no point, or if it jumps: its points are, in root mean square, more than
10 % of the face's size away from the midpoint of their positions 1 frame before and after, and also
2 frames and 3 frames before and after. This rule finds jumps that last one or two frames.
--truth adds the mean distance from the truth, divided by the face's size in that frame, and the
mean distance between a point's motion to the next frame and its true motion.

FILE is one of
  a folder    of iBUG's .pts files or 300W-LP's .mat files, one a frame
  .csv .tsv   frame,x0,y0,x1,y1,... a row a frame, or frame,point,x,y a row a point
  .npz        an array `points` [frames, points, 2], and optionally `valid` [frames]
  .mat        an array [frames, points, 2], [2, points, frames] or [points, 2, frames], under any
              name; or COFW's phisTr, phisT or phis, or 300W-LP's pt2d
A point is missing if it is NaN, empty, or at (0, 0) in a table. Frames are sorted by name.
"""


def run(arguments: list[str]) -> None:
    """Runs the verb that the first argument names."""
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in VERBS:
            raise UserError(f"unknown verb {arguments[0]!r}; there is {', '.join(VERBS)}")
        VERBS[arguments[0]](arguments[1:])
        return
    make_parser("landmarks", HELP).parse_args(arguments)
    raise UserError(f"say what to do: cmaclip landmarks {' | '.join(VERBS)}")


def run_stability(arguments: list[str]) -> None:
    """Reads the arguments and measures."""
    parser = make_parser("landmarks stability", STABILITY)
    parser.add_argument("--predictions", required=True, metavar="FILE", help="the detected points")
    parser.add_argument("--truth", metavar="FILE", help="the true points of the same frames")
    parser.add_argument(
        "--normalise",
        choices=("eyes", "box"),
        default="eyes",
        help="how to measure the face's size (default: eyes)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="where to write a plot")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    stability(parser.parse_args(arguments))


def stability(options) -> None:
    """Measures the predictions, prints the figures and draws them."""
    # the imports below take seconds
    from cmaclip_jax.landmarks.stability import draw, judge, missing_line, size_line, table_cells
    from cmaclip_jax.landmarks.tracks import read_points

    if options.plot:
        check_plot(options.plot)
    screen = Screen(sys.stdout, quiet=options.json)
    predictions = read_points(options.predictions)
    truth = read_points(options.truth) if options.truth else None
    judged = judge(predictions, truth, options.normalise)
    frames, points, _ = predictions.points.shape
    if options.json:
        sizes = {"frames": frames, "points": points}
        sizes |= {"normalised_by": judged.by, "face_size": judged.size, "missing": judged.missing}
        Screen(sys.stdout).say(json.dumps(sizes | judged.figures, indent=1))
    title = f"{options.predictions}: {frames:,} frames, {points} points"
    screen.show(text_table(table_cells(judged), title))
    screen.say(missing_line(judged.missing))
    screen.say(size_line(judged, predictions.layout))
    if options.plot:
        title = f"Stability of {Path(options.predictions).name}"
        with whole_file(options.plot) as part:
            draw(judged, predictions.layout, title).savefig(part)
        screen.say(f"written to {options.plot}")


def check_plot(path: Path) -> None:
    """Refuses a path that matplotlib cannot write, before files are read."""
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"--plot={path}: name a .png, .pdf or .svg")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--plot={path}: its folder is not there; make it first")


VERBS = {"stability": run_stability, "noise": run_noise, "study": run_study}
