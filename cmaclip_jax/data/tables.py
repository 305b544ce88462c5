"""Table files as columns of strings: CSV, TSV, JSON Lines and Parquet.

An empty string is an empty cell, and nothing else is: "NA" and "None" are words.
"""

import codecs
import collections
import csv
import io
import json
import re
from collections.abc import Callable, Iterator

import tensorflow as tf

from cmaclip_jax.errors import UserError

SEPARATOR = "|"  # between the labels of one cell
LONGEST_QUOTE = 50  # lines in a cell: more were not meant to be one
LONGEST_CELL = 1 << 24  # characters; Python's own limit is 131,072
Fault = Callable[[str, str], None]  # (which row, what is wrong with it)


def read_table(path: str, fault: Fault) -> dict[str, list[str]]:
    """Every column by its name; rows that are no rows go to `fault` and are left out."""
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines}
    readers |= {".json": _json_lines, ".parquet": _parquet, ".pq": _parquet}
    suffix = path[path.rfind(".") :].lower()
    if suffix not in readers:
        raise UserError(f"cannot tell what {path!r} is; a table ends in {', '.join(readers)}")
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            content = file.read()
    except tf.errors.OpError as error:
        raise UserError(f"cannot read the table {path!r} ({error.message})") from error
    faults: collections.Counter = collections.Counter()

    def counted(row: str, reason: str) -> None:
        faults[reason] += 1
        fault(row, reason)

    columns = readers[suffix](content, path, counted)
    if not columns or not next(iter(columns.values())):
        worst = "".join(f" ({count} with {why})" for why, count in faults.most_common(1))
        raise UserError(f"the table {path!r} has no rows{worst}; name another in data.path")
    return {name: [cell.strip() for cell in cells] for name, cells in columns.items()}


def _csv(content: bytes, path: str, fault: Fault) -> dict[str, list[str]]:
    csv.field_size_limit(LONGEST_CELL)
    text = _decoded(content)
    head = re.sub('"[^"]*"', "", text.partition("\n")[0])
    delimiter = "\t" if path.lower().endswith(".tsv") else max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = [name.strip() for name in next(reader, [])]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the table {path!r} has two columns called {twice!r}; rename one")
    rows = list(_csv_rows(reader, len(names), fault))
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _csv_rows(reader, width: int, fault: Fault) -> Iterator[list[str]]:
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fault(f"line {reader.line_num}", f"not CSV: {error}")
            continue
        if len(row) == width + 1 and not row[-1]:  # a delimiter at the line's end
            row.pop()
        if max((cell.count("\n") for cell in row), default=0) > LONGEST_QUOTE:
            fault(
                f"line {reader.line_num}", f"a cell of over {LONGEST_QUOTE} lines: a quote is open"
            )
        elif len(row) == width:
            yield row
        elif row:
            fault(f"line {reader.line_num}", f"{len(row)} cells where the head has {width}")


def _json_lines(content: bytes, path: str, fault: Fault) -> dict[str, list[str]]:
    rows, text = [], _decoded(content)
    if text.lstrip().startswith("["):
        raise UserError(f"{path!r} is one JSON array; write one object a line (JSON Lines)")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
            rows.append(row)
        except ValueError as error:
            fault(f"line {number}", f"not a JSON object: {error}")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_cell(row.get(name)) for row in rows] for name in names}


def _parquet(content: bytes, path: str, fault: Fault) -> dict[str, list[str]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(pyarrow.BufferReader(content))
        columns = {name: table[name].to_pylist() for name in table.column_names}
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path!r} cannot be read as Parquet ({error})") from error
    for field in table.schema:
        if pyarrow.types.is_struct(field.type):
            raise UserError(
                f"{path!r}: column {field.name!r} holds structs; let it hold text, and pictures "
                "lie in files of their own"
            )
    return {name: [_cell(value) for value in values] for name, values in columns.items()}


def _decoded(content: bytes) -> str:
    """UTF-8; bytes that are none are read as Windows-1252, so that no two words become one."""
    text = content.decode("utf-8-sig", errors="windows-1252")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _as_windows(error: UnicodeDecodeError) -> tuple[str, int]:
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("windows-1252", _as_windows)


def _cell(value) -> str:
    """A typed value as a cell: whole numbers without a point, lists as several labels."""
    if value is None or value != value:  # a NaN is how some writers say "nothing"
        return ""
    if isinstance(value, list):
        return SEPARATOR.join(map(_cell, value))
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
