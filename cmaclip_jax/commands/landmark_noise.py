"""cmaclip landmarks noise: how annotators scatter, from faces that several of them annotated."""

import json
import sys
from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser
from cmaclip_jax.errors import UserError
from cmaclip_jax.screen import Screen, text_table

NOISE = """\
Learns how annotators scatter around a face's points, from the same faces annotated by several of
them: along the contour and across it, with Gaussian or heavier tails, and each annotator's bias.
Give --annotations=FILE once for each annotator, at least twice. FILE is as in
`cmaclip landmarks stability --help`; a point that an annotator left out is missing in the file.

All figures are shares of the face's size, the distance of the outer eye corners. The model is
written as JSON. To train under this noise, give --config.landmarks.noise=fitted
--config.landmarks.noise_model=FILE.

The model is our reconstruction, not the formulas of arXiv:2007.15269.
"""


def run_noise(arguments: list[str]) -> None:
    """Reads the arguments, fits the model and prints its figures."""
    parser = make_parser("landmarks noise", NOISE)
    parser.add_argument(
        "--annotations",
        required=True,
        action="append",
        metavar="FILE",
        help="one annotator's points",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("noise.json"),
        metavar="FILE.json",
        help="where to write the model (default: noise.json)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    noise(parser.parse_args(arguments))


def noise(options) -> None:
    """Fits the model, writes it and prints its figures."""
    # the imports below take seconds
    from cmaclip_jax.landmarks import noise_report as report
    from cmaclip_jax.landmarks.annotation_noise import fit

    if not options.output.absolute().parent.is_dir() or options.output.is_dir():
        raise UserError(f"--output={options.output}: name a file in a folder that is there")
    layout, annotations = report.read_annotations(options.annotations)
    model = fit(annotations, layout)
    figures = report.noise_figures(model, annotations, layout, options.annotations)
    model.save(options.output)
    screen = Screen(sys.stdout)
    if options.json:
        screen.say(json.dumps(figures, indent=1))
        return
    size = "eye distance" if model.layout else "face's size"
    title = f"Standard deviation over {model.faces:,} faces, % of the {size} (95 % interval)"
    screen.show(text_table(report.part_cells(figures), title))
    screen.say(report.family_line(figures))
    screen.say()
    screen.show(text_table(report.bias_cells(figures), f"Mean bias, % of the {size}"))
    screen.say(f"written to {options.output}")
