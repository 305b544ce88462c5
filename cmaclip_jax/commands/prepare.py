"""cmaclip prepare: any data set as sharded record files of small pictures."""

import argparse
import contextlib
import functools
from collections.abc import Iterator

from cmaclip_jax.commands.arguments import make_parser, read_named_config

HELP = """\
Reads the records that a config describes, makes their pictures small, and writes them as
sharded files that train without the original data. TFDS reads the folder as well. The same
command again continues a run that was stopped.

  --config=FILE            the run's config, for example configs/quickstart.py
  --config.FIELD=VALUE     changes one of its fields; cmaclip_jax/config.py lists them all
"""

SHOWN = 5  # classes of a task, the most frequent ones


def run(arguments: list[str]) -> None:
    """Reads the arguments and prepares."""
    parser = make_parser("prepare", HELP)
    parser.add_argument("--output", required=True, help="the folder to write")
    parser.add_argument("--shards", required=True, type=int, help="files of the training split")
    parser.add_argument("--size", type=int, default=256, help="pixels of a picture's shorter side")
    parser.add_argument("--quality", type=int, default=92, help="of JPEG, 1 to 100")
    parser.add_argument(
        "--format",
        default="array_record",
        choices=("array_record", "tfrecord"),
        help="of the files; tf.data reads tfrecord alone",
    )
    parser.add_argument(
        "--beam",
        nargs=argparse.REMAINDER,
        help="let Apache Beam write the shards; all that follows goes to its runner",
    )
    options, rest = parser.parse_known_args(arguments)
    config, _ = read_named_config(rest)
    prepare(config, options)


def prepare(config, options: argparse.Namespace) -> None:
    """Opens the source, writes what is not yet written, and says what there is."""
    from cmaclip_jax.data.prepare.job import Job, write_with_beam
    from cmaclip_jax.data.prepare.shards import Form, finish_all

    form = Form(options.shards, options.size, options.quality, options.format)
    job = Job.of(config.data, options.output, form)
    preparation = job.open()
    if options.beam is not None:
        missing = [p for p in preparation.pieces() if not preparation.finished(*p)]
        write_with_beam(job, missing, options.beam)
    with progress_bar(preparation) as (bar, task):
        write = functools.partial(preparation.write, tick=functools.partial(advance, bar, task))
        accounts, bad = finish_all(preparation, config.data.max_bad, write)
    for line in summary(preparation, accounts, bad):
        print(line, flush=True)


@contextlib.contextmanager
def progress_bar(preparation):
    """A bar on stderr that begins where an earlier run ended: itself, and its only task."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    pieces = preparation.pieces()
    done = [piece for piece in pieces if preparation.finished(*piece)]
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    from cmaclip_jax.screen import Screen

    screen = Screen()
    if done:
        screen.say(f"{len(done)} of {len(pieces)} shards are there already")
    with screen.bar(*columns) as bar:
        records = {piece: len(preparation.rows(*piece)) for piece in pieces}
        task = bar.add_task("", total=sum(records.values()), speed="")
        bar.advance(task, sum(records[piece] for piece in done))
        yield bar, task


def advance(bar, task) -> None:
    """One more record."""
    bar.advance(task)
    speed = bar.tasks[task].speed
    if speed:
        bar.update(task, speed=f"{speed:,.0f} examples/s")


def summary(preparation, accounts: dict, bad) -> Iterator[str]:
    """What was written, for whoever is about to train on it."""
    from cmaclip_jax.data.prepare.account import Account

    whole = Account()
    for split, account in accounts.items():
        yield row(
            split,
            f"{account.records:,} pairs, {account.without_image:,} without a picture, "
            f"{account.without_text:,} without words; {preparation.shards[split]} shards, "
            f"{account.file_bytes / 1e6:,.1f} MB",
        )
        whole.join(account)
    for task in preparation.tasks:
        yield row(task.name, label_line(task, whole))
    yield row(
        "words",
        f"{whole.words_at(0.5)} a text in the median, {whole.words_at(0.99)} at the 99th "
        f"percentile, {whole.words_at(1)} at most",
    )
    yield row("bad", bad.summary() or "nothing")
    yield row("on disk", f"{whole.file_bytes / 1e6:,.1f} MB in {preparation.output}")
    yield row("to train", f"--config.data.source=tfds --config.data.path={preparation.output}")


def row(name: str, value: str) -> str:
    """One line of the account."""
    return f"{name:12} {value}"


def label_line(task, account) -> str:
    """A task's classes and the most frequent of them, over all splits."""
    counts = account.labels.get(task.name, {})
    most = sorted(counts.items(), key=lambda item: -item[1])[:SHOWN]
    shown = ", ".join(f"{name} {count:,}" for name, count in most)
    more = ", ..." if len(task.classes) > len(most) else ""
    kind = ", several at once" if task.many else ""
    return (
        f"{len(task.classes)} classes{kind}: {shown}{more}; {account.unknown[task.name]:,} unknown"
    )
