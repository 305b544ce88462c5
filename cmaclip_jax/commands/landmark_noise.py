"""cmaclip landmarks noise: how annotators scatter, from faces that several of them marked."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser
from cmaclip_jax.errors import UserError

NOISE = """\
Learns how annotators scatter about a face's points from the same faces as several have marked
them: along the contour and across it, with Gaussian or heavier tails, and everybody's own bias.
Write --annotations=FILE once for each annotator, two at least; FILE is as in
`cmaclip landmarks stability --help`, and a point that somebody did not mark is missing there.

All figures are shares of the face's size, the distance of the outer eye corners. What it finds
is kept as JSON, for training under this noise: --config.landmarks.noise=fitted
--config.landmarks.noise_model=FILE.

The model is our reconstruction, not the formulas of arXiv:2007.15269.
"""


def run_noise(arguments: list[str]) -> None:
    """Reads the arguments and fits."""
    parser = make_parser("landmarks noise", NOISE)
    parser.add_argument(
        "--annotations", required=True, action="append", metavar="FILE", help="what one marked"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("noise.json"),
        metavar="FILE.json",
        help="where the model is kept (default: noise.json)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    noise(parser.parse_args(arguments))


def noise(options) -> None:
    """Fits, keeps and prints the model."""
    from cmaclip_jax.landmarks.annotation_noise import fit  # takes a second to import
    from cmaclip_jax.landmarks.noise_summary import bias_rows, part_rows

    if not options.output.absolute().parent.is_dir() or options.output.is_dir():
        raise UserError(f"--output={options.output}: name a file in a folder that is there")
    layout, annotations = read_annotations(options.annotations)
    model = fit(annotations, layout)
    parts, biases = part_rows(model, annotations, layout), bias_rows(model)
    biases = [
        {"annotations": path} | row for path, row in zip(options.annotations, biases, strict=True)
    ]
    model.save(options.output)
    if options.json:
        print(json.dumps(figures(model, parts, biases), indent=1))
    else:
        show(model, parts, biases)
        print(f"written to {options.output}")


def read_annotations(paths: list[str]):
    """The layout (None: not known), and everybody's points of the same faces: a list of [N,P,2]."""
    from cmaclip_jax.landmarks.stability import check_same
    from cmaclip_jax.landmarks.tracks import read_points

    if len(paths) < 2:
        raise UserError(
            "one annotator says nothing of noise; give the same faces as another has marked them "
            "with a second --annotations=FILE"
        )
    first, *others = tracks = [read_points(path) for path in paths]
    for path, track in zip(paths[1:], others, strict=True):
        check_same(first, track, f"the annotations {paths[0]}", f"those of {path}")
    return first.layout, [track.points for track in tracks]


def figures(model, parts: list[dict], biases: list[dict]) -> dict:
    """All figures, for programs; None where there is none."""
    gain, error = (None if value != value else value for value in model.gain)
    return {
        "faces": model.faces,
        "points": len(model.deviations),
        "layout": model.layout,
        "family": model.family,
        "gain": gain,
        "gain_error": error,
        "parts": parts,
        "annotators": biases,
    }


def show(model, parts: list[dict], biases: list[dict]) -> None:
    """Two tables, and a line on the family."""
    from cmaclip_jax.evaluation.tables import text_table  # takes seconds to import
    from cmaclip_jax.screen import Screen

    screen = Screen(sys.stdout)
    size = "eye distance" if model.layout else "face's size"
    title = f"Deviation over {model.faces:,} faces, % of the {size} (95 % interval)"
    screen.show(text_table(part_cells(parts), title))
    gain, error = model.gain
    line = f"noise: {model.family}; too few faces to compare it with another"
    if gain == gain:
        line = (
            f"noise: {model.family}; Student's t explains a face that was held out better by "
            f"{gain:.2f} ± {error:.2f} (log-likelihood)"
        )
    screen.say(line)
    screen.say()
    title = f"Mean bias, % of the {size}"
    screen.show(text_table(bias_cells(biases), title))


def part_cells(parts: list[dict]) -> Iterator[list[str]]:
    """A head, and a line a part."""
    yield ["part", "points", "along the contour", "across it", "not Gaussian"]
    for row in parts:
        share = row["normality_rejected"]
        spreads = [
            "{:.2f} ({:.2f} to {:.2f})".format(*(100 * value for value in row[axis].values()))
            for axis in ("along", "across")
        ]
        yield [row["part"], f"{row['points']}", *spreads, "-" if share is None else f"{share:.0%}"]


def bias_cells(biases: list[dict]) -> Iterator[list[str]]:
    """A head, and a line an annotator."""
    yield ["annotations", "along the contour", "across it", "length"]
    for row in biases:
        signed = [f"{100 * row[axis]:+.2f}" for axis in ("along", "across")]
        yield [row["annotations"], *signed, f"{100 * row['length']:.2f}"]
