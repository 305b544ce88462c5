"""cmaclip predict: the answers of a trained run to the rows of a table."""

from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser
from cmaclip_jax.commands.tables import add_table_arguments, open_named_table
from cmaclip_jax.errors import UserError

HELP = """\
Answers every row of a table, in its order, with every task of a run. For TASK there are the columns
TASK (the class), TASK_probability, TASK_accepted (by the run's thresholds; empty without any)
and TASK_image_weight; `note` says what a row lacked. Where a run has thresholds, a probability is
scaled by the temperature that was chosen with them: an answer is accepted where it reaches the
threshold. The same command goes on where it was stopped; a finished file is not replaced without
--overwrite. Started once per host on a shared disk, the hosts share the rows.
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and answers."""
    parser = make_parser("predict", HELP)
    add_table_arguments(parser)
    parser.add_argument("--output", required=True, help="a .csv, .jsonl or .parquet to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file at --output")
    parser.add_argument("--host", type=int, help="this process's number (default: JAX knows)")
    parser.add_argument("--hosts", type=int, help="how many processes share the rows")
    predict(parser.parse_args(arguments))


def predict(options) -> None:
    """Answers the table that the options name."""
    import jax  # what is below takes seconds to import

    from cmaclip_jax.screen import Screen
    from cmaclip_jax.serving.classifier import open_classifier
    from cmaclip_jax.serving.labelling import Labelling, check_output

    output = Path(options.output)
    check_output(output, options.input, options.overwrite)
    table = open_named_table(options)
    screen = Screen()
    screen.say(str(table))
    classifier = open_classifier(options.workdir, jax.local_devices(), options.checkpoint)
    said = f"answers of step {classifier.trained.step:,}; " + (
        "probabilities are scaled by each task's temperature, as thresholds.json tests them"
        if classifier.thresholds
        else "this run has no thresholds, so nothing is called accepted; they are made by `cmaclip "
        f"evaluate --workdir={options.workdir} --precision=0.95`"
    )
    screen.say(said)
    hosts = jax.process_count() if options.hosts is None else options.hosts
    host = jax.process_index() if options.host is None else options.host
    if not 0 <= host < hosts:
        raise UserError(f"--host={host} of --hosts={hosts}; hosts are numbered from 0")
    labelling = Labelling(classifier, table, output, host, hosts)
    share = table.rows // hosts
    counts = labelling.run(lambda rows: screen.track(rows, "answered", share, "rows", int))
    if counts is None:
        screen.say("done here; the file is there once all hosts are done")
        return
    _summarise(counts, classifier, screen)
    screen.say(f"written to {options.output}")


def _summarise(counts, classifier, screen) -> None:
    """What became of the rows, on the screen."""
    from cmaclip_jax.data.named_pictures import OUTSIDE  # takes seconds to import
    from cmaclip_jax.data.pairs import NO_PICTURE, NOTHING

    if classifier.thresholds:
        shares = (
            f"{name} {counts.accepted[name] / counts.rows:.1%}" for name in classifier.thresholds
        )
        screen.say("accepted: " + ", ".join(shares))
    notes = ", ".join(f"{count:,} {note}" for note, count in counts.notes.most_common(5))
    screen.say(f"{counts.rows:,} rows" + (f"; notes: {notes}" if notes else ""))
    lost = sum(
        count
        for note, count in counts.notes.items()
        if "picture" in note and not note.startswith((NO_PICTURE, NOTHING))
    )
    if lost:
        hint = "; --outside allows those outside" if OUTSIDE in "".join(counts.notes) else ""
        screen.warn(
            f"attention: {lost:,} of {counts.rows:,} rows name a picture that could not be used, "
            f"and were answered by their words alone{hint}"
        )
