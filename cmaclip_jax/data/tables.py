"""Table files as columns of strings: CSV, TSV, JSON Lines and Parquet.

An empty string is an empty cell, and nothing else is: "NA" and "None" are words.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator

import tensorflow as tf

from cmaclip_jax.errors import UserError

SEPARATOR = "|"  # between the labels of one cell
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
    columns = readers[suffix](content, path, fault)
    if not columns or not next(iter(columns.values())):
        raise UserError(f"the table {path!r} has no rows; name another in data.path")
    return columns


def _csv(content: bytes, path: str, fault: Fault) -> dict[str, list[str]]:
    csv.field_size_limit(LONGEST_CELL)
    text = _decoded(content, fault)
    head = text.partition("\n")[0]
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
        if len(row) == width:
            yield row
        elif row:
            fault(f"line {reader.line_num}", f"{len(row)} cells where the head has {width}")


def _json_lines(content: bytes, path: str, fault: Fault) -> dict[str, list[str]]:
    rows = []
    for number, line in enumerate(_decoded(content, fault).split("\n"), 1):
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
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path!r} is not a whole Parquet file ({error})") from error
    return {
        name: [_cell(value) for value in column.to_pylist()]
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _decoded(content: bytes, fault: Fault) -> str:
    text = content.decode("utf-8-sig", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _cell(value) -> str:
    """A typed value as a cell: whole numbers without a point, lists as several labels."""
    if value is None or value != value:  # a NaN is how some writers say "nothing"
        return ""
    if isinstance(value, list):
        return SEPARATOR.join(map(_cell, value))
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
