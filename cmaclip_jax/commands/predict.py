"""cmaclip predict: the answers of a trained run to the rows of a table."""

import argparse
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

With --beam, workers of Apache Beam answer the files of the table, on any runner: each file of
--input (a pattern, or a folder) becomes a file answers-00000-of-00016.parquet beside --output. The
rest of the line goes to Beam, as --runner=DirectRunner --direct_running_mode=multi_processing
--direct_num_workers=4. All workers must reach the run's folder, the table and the output.
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
    parser.add_argument(
        "--beam",
        nargs=argparse.REMAINDER,
        help="let Apache Beam answer the files; the rest of the line goes to it",
    )
    options = parser.parse_args(arguments)
    if options.beam is None:
        predict(options)
    else:
        predict_with_beam(options)


def predict_with_beam(options) -> None:
    """Answers the files of the table on Beam's workers."""
    from cmaclip_jax.runs.pushed import local_run  # the imports below take seconds
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.serving.beam_answers import BeamAnswers, answer_with_beam
    from cmaclip_jax.training.saved_parameters import chosen_step

    workdir = local_run(options.workdir)
    table = open_named_table(options, workdir, counts=False)
    step = chosen_step(workdir, options.checkpoint)
    job = BeamAnswers.of(str(workdir), step, table, options.output, options.overwrite)
    screen = Screen()
    screen.say(f"{len(job.files):,} files; {table}")
    counts, kept = answer_with_beam(job, options.beam)
    for line in counts.lines(job.judged()) if counts.rows else ():
        screen.say(line)
    if warning := counts.picture_warning():
        screen.warn(warning)
    before = f"; {kept:,} were there already" if kept else ""
    screen.say(f"written: {job.shard(0)} and the others, {len(job.files):,} in all{before}")


def predict(options) -> None:
    """Answers the table that the options name."""
    import jax  # the imports below take seconds

    from cmaclip_jax.runs.pushed import local_run
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.serving.classifier import open_classifier
    from cmaclip_jax.serving.table_answers import TableAnswers, check_output

    output = Path(options.output)
    check_output(output, options.input, options.overwrite)
    workdir = local_run(options.workdir)
    table = open_named_table(options, workdir)
    screen = Screen()
    screen.say(str(table))
    classifier = open_classifier(workdir, jax.local_devices(), options.checkpoint)
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
    answers = TableAnswers(classifier, table, output, host, hosts)
    share = table.rows // hosts
    counts = answers.run(lambda rows: screen.track(rows, "answered", share, "rows", int))
    if counts is None:
        screen.say("this host is done; the file appears when all hosts are")
        return
    for line in counts.lines(list(classifier.thresholds)):
        screen.say(line)
    if warning := counts.picture_warning():
        screen.warn(warning)
    screen.say(f"written to {options.output}")
