"""cmaclip label: the missing labels of a table, filled at a promised precision."""

from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser
from cmaclip_jax.commands.tables import add_table_arguments, open_named_table
from cmaclip_jax.errors import UserError

HELP = """\
Fills the empty cells of a table's tasks with the accepted answers of a trained run. Thresholds are
chosen on the split of --calibrate: with the probability --confidence, at least the share
--precision of the accepted answers is right. Other cells stay as they are. The column `labelled`
says which tasks of a row were filled. The run's own thresholds stay as they are.

--output is a table of the same kind: CSV, TSV, JSON Lines, or Parquet with its pictures. Beside it
lie STEM.report.json, with the thresholds and the counts, and STEM.review.csv, the rows to label by
hand first: the most uncertain ones, different from one another.

With --rounds=R the accepted labels are learned from: a run is trained anew on the original rows and
on these labels (config.train.pseudo), labels the table again, and so on R times. The runs lie in
RUN-round-1 and so on, or DIR-round-1 with --runs=DIR. A row of config.data that has a label keeps
it, and no figure is computed on rows labelled here.

  --config.FIELD=VALUE     changes a field of the run's config, such as config.data.path or, with
                           --rounds, config.train.pseudo_weight

The same command continues where it was stopped. A finished file is replaced only with --overwrite.
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and labels."""
    parser = make_parser("label", HELP)
    add_table_arguments(parser)
    parser.add_argument("--output", required=True, help="the filled table to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file at --output")
    parser.add_argument(
        "--precision",
        type=float,
        default=0.95,
        help="the share of accepted answers that shall be right (default: %(default)s)",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.9,
        help="reach the precision with this probability (default: %(default)s)",
    )
    parser.add_argument(
        "--calibrate", default="val", help="the split to choose thresholds on (default: val)"
    )
    parser.add_argument("--all", action="store_true", help="accept every answer, sure or not")
    parser.add_argument(
        "--review",
        type=int,
        default=50,
        help="how many rows to list to be labelled by hand (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, help="how often to train on the labels")
    parser.add_argument("--runs", metavar="DIR", help="where these runs lie (default: RUN)")
    options, rest = parser.parse_known_args(arguments)
    label(options, rest)


def label(options, overrides: list[str]) -> None:
    """Labels the table that the options name, and trains on the labels with --rounds."""
    from cmaclip_jax.auditing.labelling import Wanted, label_lines, label_table
    from cmaclip_jax.auditing.self_training import round_table, self_train
    from cmaclip_jax.runs.pushed import local_run  # these imports take seconds
    from cmaclip_jax.screen import Screen

    if options.runs and options.rounds is None:
        raise UserError("--runs is where --rounds trains; add --rounds=1")
    workdir = local_run(options.workdir)
    wanted = Wanted(
        workdir,
        open_named_table(options, workdir),
        Path(options.output),
        options.precision,
        options.confidence,
        options.calibrate,
        options.all,
        options.review,
        options.checkpoint,
        tuple(overrides),
        options.overwrite,
    )
    wanted.check()
    screen = Screen()
    screen.say(str(wanted.table))
    if options.rounds is None:
        report = label_table(wanted, screen)
    else:
        reports = self_train(wanted, options.rounds, Path(options.runs or workdir), screen)
        screen.show(round_table(reports, wanted))
        report = reports[-1]
    for line in label_lines(wanted, report):
        screen.say(line)
