"""cmaclip report: a page about a run."""

from pathlib import Path

from cmaclip_jax.commands.arguments import add_checkpoint_argument, make_parser

HELP = """\
Writes DIR/report.html, one file with everything in it. It shows how the run learned, and for every
task: precision over recall with the threshold, the confusion matrix, calibration, the weights of
picture and words, the most confident mistakes, and answers below the threshold. For a few pairs it
shows where the words look in the picture. The figures are those that `cmaclip evaluate` wrote; the
pictures come from the data.

  --config.FIELD=VALUE     changes a field of the run's config, such as data.path
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and reports."""
    parser = make_parser("report", HELP)
    parser.add_argument("--workdir", required=True, help="the folder of the run")
    parser.add_argument("--split", default="", help="the split (default: test, else val)")
    add_checkpoint_argument(parser)
    parser.add_argument("--output", help="the page to write (default: DIR/report.html)")
    options, rest = parser.parse_known_args(arguments)
    # the imports below take seconds
    from cmaclip_jax.report.pages import write_page
    from cmaclip_jax.report.run_report import run_report
    from cmaclip_jax.screen import Screen

    text, missing = run_report(options.workdir, rest, options.split, options.checkpoint)
    path = write_page(options.output or Path(options.workdir) / "report.html", text)
    screen = Screen()
    for line in (*missing, f"written to {path}"):
        screen.say(line)
