"""Tables as rows of strings: files of CSV, TSV, JSON Lines, Parquet or Arrow, or folders of them.

Only an empty string is an empty cell: "NA" and "None" are ordinary values.
"""

import codecs
import collections
import csv
import dataclasses
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from cmaclip_jax.data.head_line import why_a_row
from cmaclip_jax.data.storage import open_file, why_unreadable
from cmaclip_jax.data.table_files import FILE_NAME, TableFile, table_files
from cmaclip_jax.errors import UserError

SEPARATOR = "|"  # between the labels of one cell
LONGEST_QUOTE = 50  # lines in a cell; more mean that a quote was never closed
LONGEST_CELL = 1 << 24  # characters; Python's own limit is 131,072
COLUMNAR = (".parquet", ".pq", ".arrow")  # the endings of files that arrow_tables.py reads
LOOKED_AT = 1_000  # rows by which the first line and the columns of a table are judged
WORKBOOKS = (".xlsx", ".xlsm", ".xls", ".ods")
WORKBOOK_STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # of a zip archive and of an old .xls
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SHARED_CELLS = 2_000  # different cells of a column that are kept in memory once, not once a row
Fault = Callable[[str, str], None]  # (place of the row, what is wrong with it)


@dataclasses.dataclass(frozen=True)
class NoRow:
    """A place in a table that cannot be read as a row."""

    place: str
    reason: str


Row = dict[str, str]  # {column: cell}; a missing cell is empty


def read_table(
    path: str, fault: Fault, separator: str = SEPARATOR, field: str = "data.path"
) -> dict[str, list[str]]:
    """Every column by its name. Malformed rows are reported to `fault` and left out.

    separator: joins the items of a cell that is a list. field: of the config, that names the table.
    """
    faults: collections.Counter = collections.Counter()
    columns: dict[str, list[str]] = {}
    known: dict[str, dict[str, str]] = collections.defaultdict(dict)  # cells that rows share
    size = 0
    for row in read_rows(path, separator):
        if isinstance(row, NoRow):
            faults[row.reason] += 1
            fault(row.place, row.reason)
            continue
        for name, cell in row.items():
            shared = known[name]
            look_up = shared.setdefault if len(shared) < SHARED_CELLS else shared.get
            column = columns.setdefault(name, [])
            column += [""] * (size - len(column)) + [look_up(cell, cell)]
        size += 1
    if not size:
        worst = "".join(f" ({count} with {why})" for why, count in faults.most_common(1))
        raise UserError(f"the table {path!r} has no rows{worst}; name another in {field}")
    return {name: column + [""] * (size - len(column)) for name, column in columns.items()}


def read_rows(path: str, separator: str = SEPARATOR) -> Iterator[Row | NoRow]:
    """The rows of a table one by one, so that a table of any size fits into memory.

    If the names of the table's files say what split they hold, every row has a cell `split`.
    """
    files = table_files(path)
    for file in files:
        yield from rows_of_file(file, files, separator)


def rows_of_file(
    file: TableFile, files: Sequence[TableFile], separator: str = SEPARATOR
) -> Iterator[Row | NoRow]:
    """The rows of one of a table's files, as `read_rows` gives them."""
    for row in _rows_alone(file, separator):
        if isinstance(row, NoRow):
            yield row if len(files) == 1 else NoRow(f"{file.name}, {row.place}", row.reason)
            continue
        yield row | by_place(row, file, files)


def by_place(row: Mapping, file: TableFile, files: Sequence[TableFile]) -> dict[str, str]:
    """The cells of a row that follow from the place of its file: `split` and `file_name`."""
    cells = {}
    if any(other.split for other in files):
        cells["split"] = file.split or row.get("split", "")
    if file.folder and row.get(FILE_NAME):
        cells[FILE_NAME] = os.path.join(file.folder, row[FILE_NAME])
    return cells


def _rows_alone(file: TableFile, separator: str) -> Iterator[Row | NoRow]:
    path, suffix = file.path, os.path.splitext(file.path)[1].lower()
    if suffix in COLUMNAR:
        from cmaclip_jax.data.arrow_tables import open_arrow  # imports pyarrow

        yield from open_arrow(path).rows(file.name, lambda value: _cell(value, separator).strip())
        return
    if suffix in WORKBOOKS:
        raise _workbook(path)
    if suffix not in READERS:
        raise UserError(
            f"cannot tell what {path!r} is; a table ends in {', '.join((*READERS, *COLUMNAR))}"
        )
    try:
        with open_file(path) as opened:
            start = opened.read(4)
            opened.seek(0)
            if start.startswith(WORKBOOK_STARTS):
                raise _workbook(path)
            yield from READERS[suffix](opened, path, separator)
    except OSError as error:
        raise UserError(f"cannot read the table {path!r} ({why_unreadable(error)})") from error


def _workbook(path: str) -> UserError:
    return UserError(
        f"{path!r} is a spreadsheet's workbook, which cannot be read; save it as CSV and name that"
    )


def _csv(file, path: str, separator: str) -> Iterator[Row | NoRow]:
    """Rows below a line of column names. `separator` is unused, since no CSV cell is a list."""
    csv.field_size_limit(LONGEST_CELL)
    lines = text_lines(file)
    first = next(lines, "")
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter_of(first, path))
    names = [name.strip() for name in next(reader, [])]
    rows = _csv_rows(reader, len(names))
    some = list(itertools.islice(rows, LOOKED_AT))
    if why := why_a_row(names, [row for row in some if not isinstance(row, NoRow)]):
        raise UserError(
            f"the first line of {path!r} looks like a row, not like names of columns ({why}); put "
            "a line of names above it, as image,title,colour; or rename that column"
        )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the table {path!r} has two columns called {twice!r}; rename one")
    for row in itertools.chain(some, rows):
        yield row if isinstance(row, NoRow) else dict(zip(names, row, strict=True))


def delimiter_of(first: str, path: str) -> str:
    """What stands between the cells of a file with this first line."""
    head = re.sub('"[^"]*"', "", first)
    return "\t" if path.lower().endswith(".tsv") else max(",;\t|", key=head.count)


def _csv_rows(reader, width: int) -> Iterator[list[str] | NoRow]:
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield NoRow(f"line {reader.line_num}", f"not CSV: {error}")
            continue
        if len(row) == width + 1 and not row[-1]:  # a delimiter at the line's end
            row.pop()
        if max((cell.count("\n") for cell in row), default=0) > LONGEST_QUOTE:
            reason = f"a cell of over {LONGEST_QUOTE} lines: a quote is open"
            yield NoRow(f"line {reader.line_num}", reason)
        elif len(row) == width:
            yield [cell.strip() for cell in row]
        elif row:
            reason = f"{len(row)} cells where the head has {width}"
            yield NoRow(f"line {reader.line_num}", reason)


def _json_lines(file, path: str, separator: str) -> Iterator[Row | NoRow]:
    for row in json_objects(file, path):
        if isinstance(row, NoRow):
            yield row
        else:
            yield {name: _cell(value, separator).strip() for name, value in row.items()}


def json_objects(file: BinaryIO, path: str) -> Iterator[dict[str, Any] | NoRow]:
    """The objects of a file of JSON Lines, with their values as they are."""
    for number, line in enumerate(text_lines(file), 1):
        if number == 1 and line.lstrip().startswith("["):
            raise UserError(f"{path!r} is one JSON array; write one object a line (JSON Lines)")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            yield NoRow(f"line {number}", f"not a JSON object: {error}")
            continue
        yield row


READERS = {".csv": _csv, ".tsv": _csv} | dict.fromkeys((".jsonl", ".ndjson", ".json"), _json_lines)


def text_lines(file: BinaryIO) -> Iterator[str]:
    """The lines of a file, each with a newline at its end.

    A file that starts with the mark of UTF-16 is read as such, as a whole. Any other is read as
    UTF-8, and bytes that are not UTF-8 as Windows-1252, so that different words stay different.
    """
    start = file.read(2)
    file.seek(0)
    if start in UTF_16:
        yield from io.StringIO(file.read().decode("utf-16", errors="replace"), newline=None)
        return
    encoding = "utf-8-sig"  # the first line may begin with a byte order mark
    for line in file:
        text = line.decode(encoding, errors="windows-1252")
        encoding = "utf-8"
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            yield from re.findall("[^\n]*\n|[^\n]+", text)
        else:
            yield text


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("windows-1252", _as_windows)


def _cell(value, separator: str) -> str:
    """A typed value as a cell. Whole numbers lose their point; lists become several labels."""
    if value is None or value != value:  # some writers store a missing value as NaN
        return ""
    if isinstance(value, list):
        return separator.join(_cell(item, separator) for item in value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
