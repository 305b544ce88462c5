"""A table with more cells filled than it had: its own columns and rows, written anew.

A file of text gives a file of its kind. Parquet and Arrow files, in one or many files, give one
Parquet file with the same types, metadata and pictures. A table of any size fits into memory: rows
are copied one by one, and row groups group by group.
"""

import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmaclip_jax.data.storage import open_file
from cmaclip_jax.data.table_files import TableFile, table_files
from cmaclip_jax.data.tables import (
    COLUMNAR,
    NoRow,
    by_place,
    json_objects,
    read_rows,
    rows_of_file,
)
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import whole_file

PARQUET = ".parquet"
DELIMITERS = {".csv": ",", ".tsv": "\t"}

Label = str | tuple[str, ...]
# {column: what to write there}; None for a place that could not be read as a row, and is left out.
Cells = Mapping[str, Label] | None


def filled_ending(path: str) -> str:
    """The ending of the file that `write_filled` makes of the table at `path`."""
    ending = os.path.splitext(table_files(path)[0].path)[1].lower()
    if ending in COLUMNAR:
        return PARQUET
    return ending if ending in DELIMITERS else ".jsonl"


def write_filled(
    path: str, output: Path, columns: Sequence[str], cells: Iterable[Cells], separator: str
) -> None:
    """Copies the table at `path` to `output`, with `cells` for every row that `read_rows` gives.

    columns: those that `cells` may name. A column that the table lacks becomes its last.
    separator: joins several labels in a cell, unless the cell can hold a list.
    """
    files, ending = table_files(path), filled_ending(path)
    with whole_file(output) as part:
        if ending == PARQUET:
            _write_parquet(files, part, columns, iter(cells), separator)
        elif ending in DELIMITERS:
            _write_text(path, files, part, columns, cells, separator)
        else:
            _write_json(files, part, cells)


def _write_text(path, files, part: Path, columns, cells, separator: str) -> None:
    names = dict.fromkeys(name for file in files for name in _names(file, files))
    with part.open("w", encoding="utf-8", newline="") as opened:
        delimiter = DELIMITERS[filled_ending(path)]
        writer = csv.DictWriter(
            opened, [*names, *(name for name in columns if name not in names)], "",
            delimiter=delimiter, lineterminator="\n",
        )  # fmt: skip
        writer.writeheader()
        for row, filled in zip(read_rows(path), cells, strict=True):
            if not isinstance(row, NoRow):
                writer.writerow(row | {n: _joined(x, separator) for n, x in filled.items()})


def _names(file: TableFile, files: Sequence[TableFile]) -> Iterable[str]:
    """The columns of a file of CSV or TSV: those of its first row."""
    rows = rows_of_file(file, files)
    return next((row for row in rows if not isinstance(row, NoRow)), {})


def _write_json(files: Sequence[TableFile], part: Path, cells: Iterable[Cells]) -> None:
    with part.open("w", encoding="utf-8") as opened:
        for row, filled in zip(_objects(files), cells, strict=True):
            if filled is not None and not isinstance(row, NoRow):
                opened.write(json.dumps({**row, **filled}, ensure_ascii=False) + "\n")


def _objects(files: Sequence[TableFile]) -> Iterator[dict[str, Any] | NoRow]:
    for file in files:
        with open_file(file.path) as opened:
            for row in json_objects(opened, file.path):
                yield row if isinstance(row, NoRow) else row | by_place(row, file, files)


def _joined(label: Label, separator: str) -> str:
    return separator.join(label) if isinstance(label, tuple) else label


def _write_parquet(files, part: Path, columns, cells: Iterator[Cells], separator: str) -> None:
    from pyarrow import parquet  # only these tables need it

    from cmaclip_jax.data.arrow_tables import open_arrow

    added = by_place({}, files[0], files)  # a column of splits, if the files' names tell these
    schema = _schema(open_arrow(files[0].path).schema, [*added, *columns])
    with parquet.ParquetWriter(part, schema) as writer:
        for file in files:
            arrow = open_arrow(file.path)
            for group in arrow.groups():
                rows = [dict(row) for row in itertools.islice(cells, len(group))]
                for row in rows:
                    row.update(by_place({}, file, files))
                writer.write_table(_filled(group, schema, rows, arrow.names, separator, file.path))


def _schema(schema, columns: Sequence[str]):
    """The schema with these columns. A type that can hold no label, or no new one, is replaced."""
    import pyarrow as pa

    from cmaclip_jax.data.arrow_labels import with_text_columns

    names = dict.fromkeys((*schema.names, *columns))
    fields, strings = [], []
    for name in names:
        field = schema.field(name) if name in schema.names else pa.field(name, pa.null())
        if pa.types.is_null(field.type):
            strings.append(name)
            field = pa.field(name, pa.string())
        elif pa.types.is_dictionary(field.type):
            field = pa.field(name, field.type.value_type)
        fields.append(field)
    return pa.schema(fields, with_text_columns(schema.metadata, strings))


def _filled(group, schema, rows: Sequence[Mapping[str, Label]], names, separator: str, path: str):
    """A row group with these cells. names: {column of numbered classes: their names}."""
    import pyarrow as pa

    wanted, columns = {name for row in rows for name in row}, []
    for field in schema:
        there = field.name in group.column_names
        if not there and field.name not in wanted:
            columns.append(pa.nulls(len(group), field.type))
        elif field.name not in wanted:
            columns.append(group.column(field.name).cast(field.type))
        else:
            old = group.column(field.name).to_pylist() if there else [None] * len(group)
            named = names.get(field.name)
            new = [
                _typed(row[field.name], field, named, separator, path) if field.name in row else was
                for row, was in zip(rows, old, strict=True)
            ]
            columns.append(pa.array(new, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _typed(label: Label, field, names: Sequence[str] | None, separator: str, path: str) -> Any:
    """A label as a value of a column."""
    from cmaclip_jax.data.arrow_labels import as_value

    text = _joined(label, separator)
    try:
        return as_value(text, field.type, names, separator)
    except ValueError:
        raise UserError(
            f"{path!r}: the column {field.name!r} cannot hold {text!r}; store it as text"
        ) from None
