"""Answers the rows of a table, continues after a stop, and shares the rows among hosts.

The rows are answered in parts of a fixed size. Each part is a file in a folder beside the output,
written whole or not at all. The host that finds all parts complete joins them. So a stopped command
continues, and the output is the same for any number of hosts with a shared disk.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cmaclip_jax.data.ahead import ahead
from cmaclip_jax.data.named_pictures import OUTSIDE
from cmaclip_jax.data.pairs import NO_PICTURE, NOTHING
from cmaclip_jax.data.table_files import file_versions
from cmaclip_jax.data.tables import NoRow, Row, read_rows
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.thresholds import TaskThresholds, threshold_text
from cmaclip_jax.files import whole_file, write_text
from cmaclip_jax.serving.answer_files import (
    KINDS,
    Line,
    answer_line,
    answer_schema,
    join_parts,
    write_part,
)
from cmaclip_jax.serving.classifier import Answer, Classifier
from cmaclip_jax.serving.input_table import InputTable

PART = 2_048  # rows; a stopped command answers at most these again
AHEAD = 2  # batches that are read while another is answered


@dataclasses.dataclass
class Counts:
    """The number of answered rows, of rows with each note, and of accepted answers of each task."""

    rows: int = 0
    notes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    accepted: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, answers: Mapping[str, Answer], note: str) -> None:
        """Counts one row; a many-label answer is accepted if one of its classes is."""
        self.rows += 1
        self.notes.update([note] if note else [])
        for name, answer in answers.items():
            accepted = answer.accepted
            self.accepted[name] += bool(any(accepted) if isinstance(accepted, tuple) else accepted)

    def merge(self, rows: int, notes: Mapping[str, int], accepted: Mapping[str, int]) -> None:
        """Adds the counts of other rows."""
        self.rows += rows
        self.notes.update(notes)
        self.accepted.update(accepted)

    def lines(self, tasks: Sequence[str]) -> list[str]:
        """The share of accepted answers of each task, the rows, and the most frequent notes."""
        shares = ", ".join(f"{name} {self.accepted[name] / self.rows:.1%}" for name in tasks)
        notes = ", ".join(f"{count:,} {note}" for note, count in self.notes.most_common(5))
        rows = f"{self.rows:,} rows" + (f"; notes: {notes}" if notes else "")
        return [f"accepted: {shares}", rows] if tasks else [rows]

    def picture_warning(self) -> str:
        """A warning about rows that name a picture that could not be used; '' if there are none."""
        unused = sum(
            count
            for note, count in self.notes.items()
            if "picture" in note and not note.startswith((NO_PICTURE, NOTHING))
        )
        if not unused:
            return ""
        hint = "; --outside allows those outside" if OUTSIDE in "".join(self.notes) else ""
        return (
            f"attention: {unused:,} of {self.rows:,} rows name a picture that could not be used, "
            f"and were answered by their words alone{hint}"
        )


class TableAnswers:
    """Writes the answers of a run to the rows of a table; this process is `host` of `hosts`.

    output: a file that `check_output` has accepted.
    """

    def __init__(
        self, classifier: Classifier, table: InputTable, output: Path, host: int = 0, hosts: int = 1
    ):
        self.classifier, self.table, self.output = classifier, table, output
        self.host, self.hosts = host, hosts
        self._schema = answer_schema(classifier.tasks)
        self._count = -(-table.rows // PART)
        self._parts = output.with_name(f"{output.name}.parts")
        self._joining = _joining(output)

    def run(self, track: Callable[[Iterator[int]], Iterable] = iter) -> Counts | None:
        """Answers the rows of this host. Returns None if parts of other hosts are still missing.

        track: shows the progress; it wraps an iterator of counts of finished rows.
        """
        self._check_parts()
        if not self._joining.exists():
            collections.deque(track(self._answer_parts()), maxlen=0)
            if not all(self._part(number).exists() for number in range(self._count)):
                return None
            try:
                self._parts.rename(self._joining)
            except FileNotFoundError:  # another host was faster
                return None
        return self._join()

    def _check_parts(self) -> None:
        """Makes the folder of parts. An existing one must belong to the same table and run."""
        trained = self.classifier.trained
        thresholds = self.classifier.thresholds
        about = about_answers(self.table, trained.workdir, trained.step, thresholds)
        folder = self._joining if self._joining.exists() else self._parts
        file = folder / "about.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                write_text(file, about)
        except OSError as error:
            raise UserError(
                f"cannot write beside {self.output} ({error.strerror}); name another --output"
            ) from error
        if file.read_text() != about:
            raise UserError(
                f"{folder} holds parts of another table's or another run's answers; remove it or "
                "name another --output"
            )

    def _part(self, number: int, folder: Path | None = None) -> Path:
        return (folder or self._parts) / f"{number:08d}{self.output.suffix}"

    def _answer_parts(self) -> Iterator[int]:
        """Writes the parts of this host; yields counts of finished rows."""
        rows = read_rows(self.table.path)
        for number in range(self._count):
            some = list(itertools.islice(rows, PART))
            if number % self.hosts != self.host:
                continue
            part = self._part(number)
            if part.exists():
                yield len(some)
                continue
            lines, counts = [], Counts()
            for line, answers in answered(self.classifier, self.table, some, number * PART):
                lines.append(line)
                counts.add(answers, line[-1])
                yield 1
            write_text(part.with_suffix(".counts"), json.dumps(vars(counts)))
            with whole_file(part) as unfinished:
                write_part(unfinished, self._schema, lines)

    def _join(self) -> Counts:
        parts = [self._part(number, self._joining) for number in range(self._count)]
        with whole_file(self.output) as unfinished:
            join_parts(parts, self._schema, unfinished)
        counts = Counts()
        for part in parts:
            counts.merge(**json.loads(part.with_suffix(".counts").read_text()))
        shutil.rmtree(self._joining)
        return counts


def answered(
    classifier: Classifier, table: InputTable, rows: Sequence[Row | NoRow], first: int
) -> Iterator[tuple[Line, dict[str, Answer]]]:
    """The line and the answers of every row.

    All batches have one size, so an answer has the same bits wherever its row stands.
    first: how many rows of the table come before.
    """
    size = classifier.most
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]

    def read(some: Sequence[Row | NoRow]) -> tuple:
        return classifier.read([table.pair(row) for row in some], full=True)

    numbers = itertools.count(first + 1)
    read_batches = ahead(read, batches, AHEAD, AHEAD)
    for some, (batch, notes) in zip(batches, read_batches, strict=True):
        answers = classifier.answer(batch, notes)
        for row, answer, note in zip(some, answers, notes, strict=True):
            note = row.reason if isinstance(row, NoRow) else note
            yield answer_line(table.identity(row, next(numbers)), answer, note), answer


def about_answers(
    table: InputTable, workdir: Path, step: int, thresholds: Mapping[str, TaskThresholds]
) -> str:
    """Facts that are equal for all parts of one output, as JSON."""
    about = dataclasses.asdict(table) | {"text": list(table.text)}
    if "://" not in table.path:
        about["path"] = os.path.abspath(table.path)
    about["files"] = file_versions(table.path)
    text = threshold_text(thresholds.values()) if thresholds else ""
    digest = hashlib.sha256(text.encode()).hexdigest() if text else ""
    run = {"workdir": str(workdir.resolve()), "step": step, "thresholds": digest}
    return json.dumps(about | run, indent=2) + "\n"


def check_output(output: Path, table: str, overwrite: bool, kinds: Sequence[str] = KINDS) -> None:
    """Raises UserError if `output` cannot be written, or exists and may not be replaced.

    kinds: the endings that it may have. A command that was stopped while it joined its parts may
    have written `output` already.
    """
    if output.suffix not in kinds:
        raise UserError(f"cannot write {output.name!r}; --output ends in {', '.join(kinds)}")
    if not output.exists():
        return
    if output.is_dir():
        raise UserError(f"{output} is a folder; name a file with --output")
    if os.path.exists(table) and output.samefile(table):
        raise UserError(f"{output} is the table itself; name another file with --output")
    if not overwrite and not _joining(output).exists():
        raise UserError(
            f"{output} is there already; add --overwrite to make it anew, or name another --output"
        )


def _joining(output: Path) -> Path:
    """The name of the folder of parts once all of them are complete."""
    return output.with_name(f"{output.name}.joining")
