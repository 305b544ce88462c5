"""Parquet and Arrow files as rows of strings, as Hugging Face's `datasets` writes them.

A picture may lie inside such a file, as bytes or as a struct {bytes, path}. Its cell is then a
reference (see `storage.EMBEDDED`), and `embedded_picture` reads the bytes that a reference names.
Pictures are read when they are needed, a row group at a time, and the groups that were read last
stay in memory. So a file of any size can be read.
"""

import functools
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import ipc, parquet

from cmaclip_jax.data.group_cache import GroupCache
from cmaclip_jax.data.storage import EMBEDDED, is_local, open_seekable, why_unreadable
from cmaclip_jax.errors import UserError

PARQUET = (".parquet", ".pq")
CACHE_BYTES = 64 * 2**20  # of pictures that stay in memory
CACHE_GROUPS = 3  # stay in memory, however large they are
BYTES, PATH = "bytes", "path"  # the fields of a picture's struct
UNKNOWN = -1  # the number that `datasets` writes for an unknown class

Names = dict[str, list[str]]  # {column of classes: their names}


class ArrowTable:
    """A Parquet or Arrow file. Any thread may read it.

    pictures: the columns whose cells are pictures.
    """

    def __init__(self, path: str):
        self.path = path
        self._kind = "Parquet" if path.lower().endswith(PARQUET) else "Arrow"
        try:
            self._file = (_ParquetGroups if self._kind == "Parquet" else _ArrowGroups)(path)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from error
        self.starts = np.cumsum([0, *self._file.sizes])  # first row of every group, and the end
        self.schema = self._file.schema
        self.names = _class_names(self.schema)
        self.pictures = tuple(
            field.name for field in self._file.schema if self._holds_pictures(field)
        )
        self._lock = threading.Lock()

    def rows(self, name: str, cell: Callable[[Any], str]) -> Iterator[dict[str, str]]:
        """Every row as {column: cell}.

        name: what references call this file. cell: makes a string of a value.
        """
        names = self._file.schema.names
        plain = [column for column in names if column not in self.pictures]
        for group in range(len(self._file.sizes)):
            cells = {column: self._references(group, column, name) for column in self.pictures}
            table = self._read(group, plain)
            for column in plain:
                values = table.column(column).to_pylist()
                cells[column] = [cell(self._class_name(column, value)) for value in values]
            for row in zip(*(cells[column] for column in names), strict=True):
                yield dict(zip(names, row, strict=True))

    def groups(self) -> Iterator[pa.Table]:
        """Every row group with all its columns, pictures included."""
        return (self._read(group, self.schema.names) for group in range(len(self._file.sizes)))

    def picture(self, column: str, row: int) -> bytes:
        """The bytes of the picture in a row."""
        group = self.group_of(row)
        values = CACHE.get((self.path, column, group), lambda: self._bytes(group, column))
        return values[row - int(self.starts[group])].as_py()

    def group_of(self, row: int) -> int:
        """The number of the row group that holds a row."""
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def picture_bytes(self, column: str) -> int:
        """About the size of a column of pictures."""
        return sum(self._file.size(group, column) for group in range(len(self._file.sizes)))

    def _read(self, group: int, columns: Sequence[str]) -> pa.Table:
        with self._lock:
            try:
                return self._file.read(group, columns)
            except (pa.ArrowException, OSError) as error:
                raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.path!r} cannot be read as {self._kind} ({why_unreadable(error)})")

    def _bytes(self, group: int, column: str) -> pa.Array:
        """The bytes of a group's pictures."""
        values = self._read(group, [column]).column(0).combine_chunks()
        return values.field(BYTES) if pa.types.is_struct(values.type) else values

    def _references(self, group: int, column: str, name: str) -> list[str]:
        """The cells of a column of pictures: references, paths of picture files, or ''."""
        first, end = map(int, self.starts[group : group + 2])
        references = [f"{name}#{column}#{row}" for row in range(first, end)]
        if self._file.is_complete(group, column):
            return references
        values = self._read(group, [column]).column(0).combine_chunks()
        parts = {BYTES: values}
        if pa.types.is_struct(values.type):
            parts = dict(zip(values.type.names, values.flatten(), strict=True))
        present = parts[BYTES].is_valid().to_pylist()
        paths = parts[PATH].to_pylist() if PATH in parts else [None] * len(references)
        return [
            reference if there else path or ""
            for reference, there, path in zip(references, present, paths, strict=True)
        ]

    def _holds_pictures(self, field: pa.Field) -> bool:
        """Whether a column has a struct with bytes in it, or bytes that are no text."""
        if pa.types.is_struct(field.type):
            return BYTES in field.type.names
        if not (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)):
            return False
        if not self._file.sizes:
            return False
        values = self._file.read(0, [field.name]).column(0).drop_null()
        return len(values) > 0 and not _is_text(values[0].as_py())

    def _class_name(self, column: str, value: Any) -> Any:
        """A value with the names of classes in place of their numbers."""
        names = self.names.get(column)
        if names is None or value is None:
            return value
        if isinstance(value, list):
            return [self._class_name(column, item) for item in value]
        if value == UNKNOWN:
            return None
        if not 0 <= value < len(names):
            raise UserError(
                f"{self.path!r}: the column {column!r} has a class number {value}, and the file's "
                f"metadata names {len(names)} classes; write the file again"
            )
        return names[value]


class _ParquetGroups:
    """The row groups of a Parquet file."""

    def __init__(self, path: str):
        self._file = parquet.ParquetFile(open_seekable(path))
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        return self._file.read_row_group(group, columns=list(columns))

    def is_complete(self, group: int, column: str) -> bool:
        """Whether the file's statistics say that every row of the group has the picture itself."""
        statistics = self._chunk(group, column).statistics
        known = statistics is not None and statistics.has_null_count
        return known and statistics.null_count == 0

    def size(self, group: int, column: str) -> int:
        """The bytes of a group's pictures."""
        return self._chunk(group, column).total_uncompressed_size

    def _chunk(self, group: int, column: str) -> parquet.ColumnChunkMetaData:
        row_group = self._file.metadata.row_group(group)
        chunks = map(row_group.column, range(row_group.num_columns))
        return next(c for c in chunks if c.path_in_schema in (column, f"{column}.{BYTES}"))


class _ArrowGroups:
    """The record batches of an Arrow file, of the stream format or of the file format."""

    def __init__(self, path: str):
        source = pa.memory_map(path) if is_local(path) else pa.PythonFile(open_seekable(path))
        try:
            table = ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            table = ipc.open_file(source).read_all()
        self.schema = table.schema
        self._batches = [batch for batch in table.to_batches() if len(batch)]
        self.sizes = [len(batch) for batch in self._batches]

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        return pa.Table.from_batches([self._batches[group]]).select(list(columns))

    def is_complete(self, group: int, column: str) -> bool:
        """False: nothing is known without reading."""
        return False

    def size(self, group: int, column: str) -> int:
        """0: the system keeps a mapped file in memory, and gives it up where there is no room."""
        return 0


CACHE = GroupCache(CACHE_BYTES, CACHE_GROUPS)


@functools.lru_cache(maxsize=1_024)
def open_arrow(path: str) -> ArrowTable:
    """The table at a path, opened once."""
    return ArrowTable(path)


def embedded_picture(reference: str) -> bytes:
    """The bytes of the picture that a reference names."""
    path, column, row = _parts(reference)
    return open_arrow(path).picture(column, int(row))


def groups_of(references: Iterable[str | None]) -> tuple[np.ndarray | None, int]:
    """The row group of every picture, and the number of pictures that half the cache holds.

    The row groups are None if the cache holds all pictures: their order then makes no difference.
    A row without an embedded picture belongs to the group of the row before.
    """
    numbers: dict[tuple, int] = {}
    groups, last = [], 0
    for reference in references:
        if reference is not None and EMBEDDED.fullmatch(reference):
            path, column, row = _parts(reference)
            key = (path, column, open_arrow(path).group_of(int(row)))
            last = numbers.setdefault(key, len(numbers))
        groups.append(last)
    columns = {key[:2] for key in numbers}
    size = sum(open_arrow(path).picture_bytes(column) for path, column in columns)
    if size <= CACHE_BYTES:
        return None, len(groups)
    return np.array(groups), len(groups) * CACHE_BYTES // (2 * size)


def _parts(reference: str) -> tuple[str, str, str]:
    match = EMBEDDED.fullmatch(reference)
    assert match, reference
    return match[1], match[2], match[3]


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _class_names(schema: pa.Schema) -> Names:
    """The names of classes that `datasets` keeps in a file's metadata."""
    kept = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(kept).get("info", {}).get("features", {}) if kept else {}
    names = {}
    for column, feature in features.items():
        if isinstance(feature, list) and feature:  # several classes in a cell
            feature = feature[0]
        feature = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if feature.get("_type") == "ClassLabel":
            names[column] = feature["names"]
    return names
