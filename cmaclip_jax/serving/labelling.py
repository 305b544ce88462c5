"""Answers the rows of a table into a file, in their order; resumable, and on several hosts.

Rows are answered in parts of a fixed size. Each part is a file in a folder beside the output,
written whole or not at all. The host that finds all parts there joins them. So a stopped command
continues, hosts with a shared disk divide the rows, and the output file is always the same.
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

from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.data.ahead import ahead
from cmaclip_jax.data.columns import NONE, choose_inputs, joined_text, shown
from cmaclip_jax.data.named_pictures import (
    LOOKED_FOR,
    OUTSIDE,
    Flags,
    any_there,
    check_places,
    evenly,
    locate,
)
from cmaclip_jax.data.pairs import NO_PICTURE, NOTHING, Pair
from cmaclip_jax.data.table_files import table_files
from cmaclip_jax.data.tables import LOOKED_AT, NoRow, Row, read_rows
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.thresholds import THRESHOLDS
from cmaclip_jax.files import whole_file, write_text
from cmaclip_jax.serving.answer_files import (
    KINDS,
    answer_line,
    answer_schema,
    join_parts,
    write_part,
)
from cmaclip_jax.serving.classifier import Answer, Classifier

PART = 2_048  # rows at most that are answered again when a run goes on
FLAGS = Flags("--outside", "--image=none")
AHEAD = 2  # batches that are read while one is answered


@dataclasses.dataclass(frozen=True)
class Table:
    """A table to answer, and its columns of ids, pictures and words (None: there is none).

    outside: whether its pictures may be outside its folder.
    """

    path: str
    rows: int
    id: str | None
    image: str | None
    text: tuple[str, ...]
    outside: bool = False

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows; columns: picture {shown(self.image)}; words "
            f"{' + '.join(self.text) or 'none'}; id {shown(self.id)}"
        )

    def identity(self, row: Row | NoRow, number: int) -> str:
        """The name of a row: its id, else its picture, else its number."""
        if isinstance(row, NoRow):
            return row.place
        named = row.get(self.id, "") or row.get(self.image, "")
        return named or f"row {number}"

    def pair(self, row: Row | NoRow) -> Pair:
        """The picture and the words of a row."""
        if isinstance(row, NoRow):
            return Pair(None, None)
        text = joined_text(row.get(name, "") for name in self.text)
        cell = row.get(self.image, "")
        if not cell:
            return Pair(None, text)
        path, why = locate(cell, self.path, self.outside)
        return Pair(path, text, why)

    def check_pictures(self) -> None:
        """Raises UserError where no picture that the table names can be used.

        As a rule one of the first ones can, and the rest of the table is not read.
        """
        first = itertools.islice(self._pictures(), LOOKED_FOR)
        if any_there(first, self.path, self.outside):
            return
        some = evenly(self._pictures(), LOOKED_FOR)
        check_places(some, self.path, self.outside, FLAGS)
        if some and not any_there(some, self.path, self.outside):
            raise UserError(
                f"no picture of {self.path!r} is there, as {some[0]!r}; move the table to the "
                f"folder where its paths start, or go without pictures by {FLAGS.without}"
            )

    def _pictures(self) -> Iterator[str]:
        """The cells that name a picture."""
        rows = read_rows(self.path) if self.image else ()
        for row in rows:
            if not isinstance(row, NoRow) and row.get(self.image):
                yield row[self.image]


def open_table(path: str, data: ConfigDict, identity: str = "") -> Table:
    """Counts the rows of a table and chooses its columns, as the fields of `data` name them.

    identity: the column of ids. Where '', it is `data.id` if the table has that, since another
        table's rows may be named otherwise.
    """
    rows = read_rows(path)
    some = list(itertools.islice(rows, LOOKED_AT))
    cells = [row for row in some if not isinstance(row, NoRow)]
    if not cells:
        raise UserError(f"the table {path!r} has no rows; name another")
    names = dict.fromkeys(name for row in cells for name in row)
    sample = {name: [row.get(name, "") for row in cells] for name in names}
    known = data.id if data.id in (*sample, NONE) else ""
    data = with_changes(data, {"id": identity or known})
    chosen, picture, words = choose_inputs(sample, data)
    size = len(some) + sum(1 for _ in rows)
    return Table(path, size, chosen, picture, words, data.outside)


@dataclasses.dataclass
class Counts:
    """How many rows were answered, how often each note occurs, and accepted answers by task."""

    rows: int = 0
    notes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    accepted: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, answers: Mapping[str, Answer], note: str) -> None:
        """Counts one row; a many-label answer is accepted where one of its classes is."""
        self.rows += 1
        self.notes.update([note] if note else [])
        for name, answer in answers.items():
            stands = answer.accepted
            self.accepted[name] += bool(any(stands) if isinstance(stands, tuple) else stands)

    def lines(self, tasks: Sequence[str]) -> list[str]:
        """The share of accepted answers of these tasks, the rows, and the most frequent notes."""
        shares = ", ".join(f"{name} {self.accepted[name] / self.rows:.1%}" for name in tasks)
        notes = ", ".join(f"{count:,} {note}" for note, count in self.notes.most_common(5))
        rows = f"{self.rows:,} rows" + (f"; notes: {notes}" if notes else "")
        return [f"accepted: {shares}", rows] if tasks else [rows]

    def picture_warning(self) -> str:
        """How many rows name a picture that could not be used; '' if none does."""
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

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.rows + other.rows, self.notes + other.notes, self.accepted + other.accepted
        )


class Labelling:
    """The answers of a run to the rows of a table; this process is `host` of `hosts`.

    output: a file that `check_output` lets be written.
    """

    def __init__(
        self, classifier: Classifier, table: Table, output: Path, host: int = 0, hosts: int = 1
    ):
        self.classifier, self.table, self.output = classifier, table, output
        self.host, self.hosts = host, hosts
        self._schema = answer_schema(classifier.tasks)
        self._count = -(-table.rows // PART)
        self._parts = output.with_name(f"{output.name}.parts")
        self._joining = _joining(output)

    def run(self, track: Callable[[Iterator[int]], Iterable] = iter) -> Counts | None:
        """Answers the rows of this host. Returns None if rows of other hosts are still missing.

        track: wraps the iterator of numbers of finished rows, to show progress.
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
        """Makes the folder of parts; an existing one must be of the same table and run."""
        about = json.dumps(self._about(), indent=2) + "\n"
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

    def _about(self) -> dict:
        """What has to be equal for parts to belong together."""
        trained = self.classifier.trained
        thresholds, path = trained.workdir / THRESHOLDS, self.table.path
        about = dataclasses.asdict(self.table) | {"text": list(self.table.text)}
        if "://" not in path:
            changed = max(os.stat(file.path).st_mtime_ns for file in table_files(path))
            about |= {"path": os.path.abspath(path), "changed": changed}
        digest = hashlib.sha256(thresholds.read_bytes()).hexdigest() if thresholds.exists() else ""
        run = {"workdir": str(trained.workdir.resolve()), "step": trained.step}
        return about | run | {"thresholds": digest}

    def _part(self, number: int, folder: Path | None = None) -> Path:
        return (folder or self._parts) / f"{number:08d}{self.output.suffix}"

    def _answer_parts(self) -> Iterator[int]:
        """Writes the parts of this host; yields numbers of finished rows."""
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
            for line, answers in self._answered(some, number * PART):
                lines.append(line)
                counts.add(answers, line[-1])
                yield 1
            write_text(part.with_suffix(".counts"), json.dumps(vars(counts)))
            with whole_file(part) as unfinished:
                write_part(unfinished, self._schema, lines)

    def _answered(self, rows: Sequence[Row | NoRow], first: int) -> Iterator[tuple]:
        """The line and the answers of every row."""
        table, classifier = self.table, self.classifier
        size = classifier.most
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]

        def read(some: Sequence[Row | NoRow]) -> tuple:
            return classifier.read([table.pair(row) for row in some])

        numbers, ready = itertools.count(first + 1), ahead(read, batches, AHEAD, AHEAD)
        for some, (batch, notes) in zip(batches, ready, strict=True):
            answers = classifier.answer(batch, notes)
            for row, answer, note in zip(some, answers, notes, strict=True):
                note = row.reason if isinstance(row, NoRow) else note
                yield answer_line(table.identity(row, next(numbers)), answer, note), answer

    def _join(self) -> Counts:
        parts = [self._part(number, self._joining) for number in range(self._count)]
        with whole_file(self.output) as unfinished:
            join_parts(parts, self._schema, unfinished)
        counts = Counts()
        for part in parts:
            saved = json.loads(part.with_suffix(".counts").read_text())
            notes, accepted = (collections.Counter(saved[name]) for name in ("notes", "accepted"))
            counts += Counts(saved["rows"], notes, accepted)
        shutil.rmtree(self._joining)
        return counts


def check_output(output: Path, table: str, overwrite: bool) -> None:
    """Raises UserError where answers cannot be written, or would replace what they may not.

    A labelling that was stopped while it joined its parts has perhaps written `output` already.
    """
    if output.suffix not in KINDS:
        raise UserError(f"cannot write {output.name!r}; --output ends in {', '.join(KINDS)}")
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
    """The folder of parts once it is complete."""
    return output.with_name(f"{output.name}.joining")
