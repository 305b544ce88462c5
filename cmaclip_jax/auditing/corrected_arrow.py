"""Corrected copies of Parquet and Arrow files, with the metadata that Hugging Face's datasets keep.

Row groups stay as they are, and one at a time is in memory.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import ipc, parquet

from cmaclip_jax.auditing.change import Change, Changes, changed_cell
from cmaclip_jax.data.arrow_labels import as_value, with_text_columns
from cmaclip_jax.data.arrow_tables import PARQUET, Names, open_arrow
from cmaclip_jax.data.columns import CHANGED
from cmaclip_jax.data.storage import open_seekable


def copy_arrow(source: str, target: BinaryIO, changes: Changes, separator: str) -> None:
    """Writes the corrected copy of a Parquet or Arrow file.

    separator: joins the labels of one cell.
    """
    names = open_arrow(source).names
    with open_seekable(source) as file:
        schema, groups, writer = _opened(file, source.lower().endswith(PARQUET), target)
        first = 0
        with writer as written:
            for group in groups:
                numbers = range(first, first + len(group))
                some = {row - first: changes[row] for row in numbers if row in changes}
                written.write_table(_corrected(group, schema, some, names, separator), len(group))
                first += len(group)


def _opened(file: BinaryIO, is_parquet: bool, target: BinaryIO) -> tuple[pa.Schema, Iterator, Any]:
    """The schema of the copy, the groups of the file, and the copy's writer."""
    if is_parquet:
        opened = parquet.ParquetFile(file)
        schema = with_changed(opened.schema_arrow)
        groups = map(opened.read_row_group, range(opened.num_row_groups))
        kinds = _compressions(opened, schema)
        return schema, groups, parquet.ParquetWriter(target, schema, compression=kinds)
    try:
        reader = ipc.open_stream(file)
        schema, make = with_changed(reader.schema), ipc.new_stream
        batches = iter(reader)
    except pa.ArrowInvalid:
        file.seek(0)
        reader = ipc.open_file(file)
        schema, make = with_changed(reader.schema), ipc.new_file
        batches = map(reader.get_batch, range(reader.num_record_batches))
    groups = (pa.Table.from_batches([batch]) for batch in batches)
    return schema, groups, make(target, schema)


def _compressions(opened: parquet.ParquetFile, schema: pa.Schema) -> str | dict[str, str]:
    """The compression of every column, as in the file."""
    if not opened.num_row_groups:
        return "snappy"
    group = opened.metadata.row_group(0)
    chunks = map(group.column, range(group.num_columns))
    kinds = {chunk.path_in_schema: chunk.compression for chunk in chunks}
    kinds = {name: "NONE" if kind == "UNCOMPRESSED" else kind for name, kind in kinds.items()}
    return kinds | ({} if CHANGED in schema.names and CHANGED in kinds else {CHANGED: "snappy"})


def with_changed(schema: pa.Schema) -> pa.Schema:
    """The schema with the column `changed`, also where `datasets` describes the columns."""
    if CHANGED in schema.names:
        return schema
    described = with_text_columns(schema.metadata, [CHANGED])
    return schema.append(pa.field(CHANGED, pa.string())).with_metadata(described)


def _corrected(
    group: pa.Table, schema: pa.Schema, some: Changes, names: Names, separator: str
) -> pa.Table:
    """A group with its changes, and with what says them. Other columns are the same memory."""
    before = [None] * len(group)
    if CHANGED in group.column_names:
        before = group.column(CHANGED).to_pylist()
    words = [changed_cell(old, some.get(row, ())) for row, old in enumerate(before)]
    columns = {name: group.column(name) for name in group.column_names}
    columns[CHANGED] = pa.array(words, schema.field(CHANGED).type)
    by_column: dict[str, dict[int, Change]] = {}
    for row, changes in some.items():
        for change in changes:
            by_column.setdefault(change.column, {})[row] = change
    for name, rows in by_column.items():
        kind, values = schema.field(name).type, columns[name].to_pylist()
        for row, change in rows.items():
            values[row] = as_value(change.new, kind, names.get(name), separator)
        columns[name] = _array(values, kind, columns[name])
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _array(values: list, kind: pa.DataType, before: pa.ChunkedArray) -> pa.Array:
    """The values as a column. One of dictionary type keeps its dictionary and the order of it."""
    if not pa.types.is_dictionary(kind):
        return pa.array(values, kind)
    known = before.unify_dictionaries().chunk(0).dictionary.to_pylist() if len(values) else []
    entries = list(dict.fromkeys([*known, *(x for x in values if x is not None)]))
    places = {entry: place for place, entry in enumerate(entries)}
    indices = pa.array(map(places.get, values), kind.index_type)
    return pa.DictionaryArray.from_arrays(
        indices, pa.array(entries, kind.value_type), ordered=kind.ordered
    )


def can_hold(source: str, column: str, label: str, separator: str) -> bool:
    """Whether a column of a Parquet or Arrow file can hold a label."""
    table = open_arrow(source)
    try:
        as_value(label, table.schema.field(column).type, table.names.get(column), separator)
    except ValueError:
        return False
    return True
