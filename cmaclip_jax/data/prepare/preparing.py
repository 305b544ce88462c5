"""A preparation from its specification to its summary, with progress on the screen."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.prepare.counts import RecordCounts
from cmaclip_jax.data.prepare.shards import Preparation, finish_all
from cmaclip_jax.data.prepare.specification import Specification, write_with_beam
from cmaclip_jax.screen import Screen
from cmaclip_jax.tasks import Task

CLASSES_SHOWN = 5  # of a task, the most frequent ones


def prepare(
    specification: Specification, max_bad: float, beam: Sequence[str] | None, screen: Screen
) -> list[tuple[str, str]]:
    """Writes the shards that are not finished, and returns the summary.

    beam: the options of Apache Beam, which then writes the shards; None: this process does.
    """
    preparation = specification.open()
    if beam is not None:
        missing = [p for p in preparation.pieces() if not preparation.finished(*p)]
        write_with_beam(specification, missing, beam)
    with _progress(preparation, screen) as tick:
        write = functools.partial(preparation.write, tick=tick)
        counts, bad = finish_all(preparation, max_bad, write)
    return list(summary(preparation, counts, bad))


@contextlib.contextmanager
def _progress(preparation: Preparation, screen: Screen) -> Iterator[Callable[[], None]]:
    """Yields the function that counts a record on a bar. Finished shards are counted before."""
    records = {piece: len(preparation.rows(*piece)) for piece in preparation.pieces()}
    finished = [piece for piece in records if preparation.finished(*piece)]
    if finished:
        screen.say(f"{len(finished)} of {len(records)} shards are there already")
    speed, left = TextColumn("{task.fields[speed]}"), TextColumn("left")
    columns = (MofNCompleteColumn(), speed, TimeRemainingColumn(), left)
    with screen.bar(BarColumn(bar_width=24), *columns) as bar:
        task = bar.add_task("", total=sum(records.values()), speed="")
        bar.advance(task, sum(records[piece] for piece in finished))

        def tick() -> None:
            bar.advance(task)
            if speed := bar.tasks[task].speed:
                bar.update(task, speed=f"{speed:,.0f} examples/s")

        yield tick


def summary(
    preparation: Preparation, counts: Mapping[str, RecordCounts], bad: BadRecords
) -> Iterator[tuple[str, str]]:
    """Names and values: what was written, and the flags of a run that trains on it."""
    total = RecordCounts()
    for split, part in counts.items():
        yield (
            split,
            f"{part.records:,} pairs, {part.without_image:,} without a picture, "
            f"{part.without_text:,} without words; {preparation.shards[split]} shards, "
            f"{part.file_bytes / 1e6:,.1f} MB",
        )
        total.join(part)
    for task in preparation.tasks:
        yield task.name, _describe_labels(task, total)
    yield (
        "words",
        f"{total.words_at(0.5)} a text in the median, {total.words_at(0.99)} at the 99th "
        f"percentile, {total.words_at(1)} at most",
    )
    yield "bad", bad.summary() or "nothing"
    yield "on disk", f"{total.file_bytes / 1e6:,.1f} MB in {preparation.output}"
    yield "to train", f"--config.data.source=tfds --config.data.path={preparation.output}"


def _describe_labels(task: Task, counts: RecordCounts) -> str:
    """The number of a task's classes, the most frequent ones, and the unknown labels."""
    classes = counts.labels.get(task.name, {})
    most = sorted(classes.items(), key=lambda item: -item[1])[:CLASSES_SHOWN]
    named = ", ".join(f"{name} {count:,}" for name, count in most)
    more = ", ..." if len(task.classes) > len(most) else ""
    kind = ", several at once" if task.many else ""
    return (
        f"{len(task.classes)} classes{kind}: {named}{more}; {counts.unknown[task.name]:,} unknown"
    )
