"""cmaclip predict: the answers of a trained run to the rows of a table."""

from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser
from cmaclip_jax.commands.tables import add_table_arguments, open_named_table
from cmaclip_jax.errors import UserError

HELP = """\
Answers every row of a table with every task of a run, and keeps the order of the rows. For each
task TASK it writes the columns TASK (the class), TASK_probability, TASK_accepted (by the run's
thresholds; empty if the run has none) and TASK_image_weight. `note` says what a row lacked.

If a run has thresholds, its probabilities are scaled by the temperature that was chosen with them;
an answer is accepted if its probability reaches the threshold.

The same command continues where it was stopped. A finished file is replaced only with --overwrite.
Several hosts with a shared disk divide the rows: start the command once on each of them.
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and answers."""
    parser = make_parser("predict", HELP)
    add_table_arguments(parser)
    parser.add_argument("--output", required=True, help="a .csv, .jsonl or .parquet to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file at --output")
    parser.add_argument("--host", type=int, help="the number of this process (default: from JAX)")
    parser.add_argument(
        "--hosts", type=int, help="how many processes divide the rows (default: from JAX)"
    )
    predict(parser.parse_args(arguments))


def predict(options) -> None:
    """Answers the table that the options name."""
    import jax  # the imports below take seconds

    from cmaclip_jax.screen import Screen
    from cmaclip_jax.serving.classifier import open_classifier
    from cmaclip_jax.serving.labelling import Labelling, check_output

    output = Path(options.output)
    check_output(output, options.input, options.overwrite)
    table = open_named_table(options)
    screen = Screen()
    screen.say(str(table))
    classifier = open_classifier(options.workdir, jax.local_devices(), options.checkpoint)
    probabilities = (
        "probabilities are scaled by each task's temperature, as thresholds.json tests them"
        if classifier.thresholds
        else "this run has no thresholds, so nothing is called accepted; they are made by `cmaclip "
        f"evaluate --workdir={options.workdir} --precision=0.95`"
    )
    screen.say(f"answers of step {classifier.trained.step:,}; {probabilities}")
    hosts = jax.process_count() if options.hosts is None else options.hosts
    host = jax.process_index() if options.host is None else options.host
    if not 0 <= host < hosts:
        raise UserError(f"--host={host} of --hosts={hosts}; hosts are numbered from 0")
    labelling = Labelling(classifier, table, output, host, hosts)
    share = table.rows // hosts
    counts = labelling.run(lambda rows: screen.track(rows, "answered", share, "rows", int))
    if counts is None:
        screen.say("this host is done; the file appears when all hosts are")
        return
    for line in counts.lines(list(classifier.thresholds)):
        screen.say(line)
    if warning := counts.picture_warning():
        screen.warn(warning)
    screen.say(f"written to {options.output}")
