"""cmaclip landmarks: how accurate and how still facial landmarks are, and why."""

import json
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
Says how accurate the landmarks of a video are, and how still they stand. All figures are shares
of the face's size, the distance of the outer eye corners. The formulas are our own choice.

FILE is one of
  a folder    of iBUG's .pts files or 300W-LP's .mat files, one a frame
  .csv .tsv   frame,x0,y0,x1,y1,... a row a frame, or frame,point,x,y a row a point
  .npz        an array `points` [frames, points, 2], and `valid` [frames] if some do not count
  .mat        COFW's phisTr, phisT or phis; 300W-LP's pt2d
What is NaN, empty, or in a table at (0, 0) is missing. Frames come in the order of their names.
"""

# What a figure is called in the table.
FIGURES = {
    "nme": "mean error against the truth",
    "failure_rate_at_0.10": "share of frames with an error above 10 %",
    "auc_at_0.10": "area under the curve of errors up to 10 %",
    "motion_error": "wrong motion from frame to frame, against the truth",
    "midpoint_jitter": "jitter: deviation from the midpoint of the neighbours in time",
}
PLAIN = ("auc_at_0.10",)  # not a percentage


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
    found = judge(predictions, read_points(options.truth) if options.truth else None)
    frames, points, _ = predictions.points.shape
    if options.json:
        sizes = {"frames": frames, "points": points}
        print(json.dumps({**sizes, "missing": found.missing, **found.figures}, indent=1))
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
    from rich.console import Console

    from cmaclip_jax.commands.figures import text_table

    console = Console()
    console.print(text_table(cells(found), title))
    line = f"missing: {counted(found.missing, '')}"
    if "truth_frames" in found.missing:
        line += f"; of the truth {counted(found.missing, 'truth_')}"
    console.print(line, highlight=False, soft_wrap=True)
    if layout is None or not layout.eyes:
        line = "a layout without known eyes: size is the points' root mean square distance from "
        console.print(line + "their centre", highlight=False, soft_wrap=True)


def cells(found) -> Iterator[list[str]]:
    """A head, and a line per figure; those that take a truth are left out without one."""
    yield ["measure", "value"]
    for name, what in FIGURES.items():
        value = found.figures[name]
        if value is None and name != "midpoint_jitter" and found.errors is None:
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
