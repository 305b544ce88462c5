"""A user's table: a row for each pair, with a picture's path, a text, and a column for each task.

An empty cell is an unknown label. The classes are those of the training rows. Another class in
val or test is listed and counts as unknown. Without a column `split`, a hash of the id (or of the
picture's path, or of the row's number) sends 80 % to train, 10 % to val and 10 % to test.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.columns import Columns, choose_columns, joined_text, without_constants
from cmaclip_jax.data.many_labels import split_cell
from cmaclip_jax.data.named_pictures import Flags, check_places, locate
from cmaclip_jax.data.order import SHUFFLED_TOGETHER
from cmaclip_jax.data.packed_strings import PackedStrings
from cmaclip_jax.data.records import Label, Record, Sources, hash_share
from cmaclip_jax.data.storage import EMBEDDED
from cmaclip_jax.data.table_files import SPLIT_NAMES
from cmaclip_jax.data.tables import read_table
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import Task, task_name

SHARES = (("train", 0.8), ("val", 0.9), ("test", 1.0))  # hashes below this belong to the split
FLAGS = Flags("--config.data.outside=True", "--config.data.image=none")
VAL_SHARE = 0.1  # of the training rows, where the table has a split but no val
NOT_ALLOWED = "\0"  # in place of the path of a picture that may not be opened


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one split. `all_labels` has every task's labels, row by row.

    columns: what the table's columns are.
    """

    tasks: tuple[Task, ...]
    ids: Sequence[str]
    images: Sequence[str | None]
    texts: Sequence[str | None]
    all_labels: dict[str, Sequence[Label]]
    columns: Columns

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        labels = {name: column[index] for name, column in self.all_labels.items()}
        return Record(self.ids[index], self.images[index], self.texts[index], labels)

    @property
    def description(self) -> str:
        return str(self.columns)

    @property
    def paths(self) -> Sequence[str | None]:
        return [None if image and EMBEDDED.fullmatch(image) else image for image in self.images]

    @property
    def chunks(self) -> np.ndarray | None:
        """The number of the row group that holds each record's picture; None: read no groups."""
        return self._groups[0]

    @property
    def together(self) -> int:
        """How many records can be shuffled together, because memory holds their pictures."""
        return max(self._groups[1], SHUFFLED_TOGETHER)

    @functools.cached_property
    def _groups(self) -> tuple[np.ndarray | None, int]:
        if not any(image and EMBEDDED.fullmatch(image) for image in self.images):
            return None, 0
        from cmaclip_jax.data.arrow_tables import groups_of  # imports pyarrow

        return groups_of(self.images)

    def text(self, index: int) -> str | None:
        return self.texts[index]

    def labels(self, task: str) -> Sequence[Label]:
        return self.all_labels[task]


def open_splits(data: ConfigDict, bad: BadRecords) -> Sources:
    """The splits of the table at `data.path`."""
    if not data.path:
        raise UserError("data.source='table' needs data.path: a table, as products.csv")
    table = read_table(data.path, functools.partial(bad.fault, "table"), data.separator)
    columns = choose_columns(table, data)
    size = len(next(iter(table.values())))
    ids = _ids(table, columns, size, bad)
    splits = _splits(table, columns, ids, bad)
    cells = table[columns.image] if columns.image else [""] * size
    check_places(filter(None, cells), data.path, data.outside, FLAGS)
    images = [
        _image(cell, data.path, data, bad, split or "table", name)
        for cell, split, name in zip(cells, splits, ids, strict=True)
    ]
    members = collections.defaultdict(list)
    for row, split in enumerate(splits):
        if split and not (images[row] == NOT_ALLOWED and bad.policy == "skip"):
            members[split].append(row)
    if not members["train"]:
        why = f" ({bad.summary()})" if bad.summary() else ""
        where = f"its column {columns.split!r}" if columns.split else "its pictures"
        raise UserError(f"no row of {data.path!r} is in train{why}; see {where}")
    if not data.labels:
        columns = without_constants(columns, table, members["train"])
    tasks = {name: _task(table, name, members["train"], columns, data) for name in columns.tasks}
    texts = [joined_text(table[name][row] for name in columns.text) for row in range(size)]
    all_labels: dict = {task.name: table[name] for name, task in tasks.items()}
    rows = Rows(tuple(tasks.values()), ids, images, texts, all_labels, columns)
    return {
        split: _part(rows, split, members[split], data, bad)
        for split, _ in SHARES
        if members[split]
    }


def open_alike(path: str, like: Rows, split: str, data: ConfigDict, bad: BadRecords) -> Rows:
    """The rows of another table, with the columns and the classes of `like`.

    If the table has a column of splits, only the rows that are in `data.split` count. A task whose
    column is missing has no label. split: what lists of bad records call these rows.
    """
    fault = functools.partial(bad.fault, split)
    table = read_table(path, fault, data.separator, "train.pseudo")
    size = len(next(iter(table.values())))
    columns = _columns_there(table, like.columns, path)
    ids = _ids(table, columns, size, bad)
    cells = table[columns.image] if columns.image else [""] * size
    check_places(filter(None, cells), path, data.outside, FLAGS)
    images = [
        _image(cell, path, data, bad, split, name) for cell, name in zip(cells, ids, strict=True)
    ]
    chosen = [
        row
        for row in range(size)
        if not (images[row] == NOT_ALLOWED and bad.policy == "skip")
        and (not columns.split or _split_of(table[columns.split][row]) == data.split)
    ]
    texts = [joined_text(table[name][row] for name in columns.text) for row in range(size)]
    named = zip(like.columns.tasks, like.tasks, strict=True)
    all_labels: dict = {task.name: table.get(name, [""] * size) for name, task in named}
    rows = Rows(like.tasks, ids, images, texts, all_labels, columns)
    return _part(rows, split, chosen, data, bad)


def _columns_there(table, columns: Columns, path: str) -> Columns:
    """The columns of another table that this table has too."""
    missing = [name for name in (columns.image, *columns.text) if name and name not in table]
    if missing:
        raise UserError(
            f"the table {path!r} has no column {missing[0]!r}, which the table of data.path has; "
            "rename the column that holds it"
        )
    there = {field: getattr(columns, field) for field in ("id", "split")}
    kept = {field: name if name in table else None for field, name in there.items()}
    return dataclasses.replace(columns, **kept)


def _part(rows: Rows, split: str, chosen: list[int], data: ConfigDict, bad: BadRecords) -> Rows:
    """The rows of one split, of a table whose `all_labels` are still cells."""

    def of(values: Sequence) -> list:
        return [values[row] for row in chosen]

    ids = of(rows.ids)
    return dataclasses.replace(
        rows,
        ids=PackedStrings(ids),
        images=PackedStrings(None if image == NOT_ALLOWED else image for image in of(rows.images)),
        texts=PackedStrings(of(rows.texts)),
        all_labels={
            task.name: _labels(task, of(rows.all_labels[task.name]), ids, split, data, bad)
            for task in rows.tasks
        },
    )


def _image(
    cell: str, table: str, data: ConfigDict, bad: BadRecords, split: str, identity: str
) -> str | None:
    if not cell:
        return None
    path, why = locate(cell, table, data.outside)
    if why:
        bad.fault(split, identity, why, cell, still_used=bad.policy == "no_image")
    return path or NOT_ALLOWED


def _ids(table, columns: Columns, size: int, bad: BadRecords) -> list[str]:
    """The id of every row: its own, else its picture's path, else its number."""
    named = columns.image if columns.id is None else columns.id
    cells = [""] * size if named is None else table[named]
    ids = [cell or f"row {number}" for number, cell in enumerate(cells, 1)]
    if columns.id is not None:
        for value, count in collections.Counter(ids).items():
            if count > 1:
                bad.note("table", value, "id that several rows have", f"{count} rows")
    return ids


def _splits(table, columns: Columns, ids: list[str], bad: BadRecords) -> list[str | None]:
    """The split of every row; None where the table names an unknown one."""
    if not columns.split:
        return [next(split for split, end in SHARES if hash_share(name) < end) for name in ids]
    splits = []
    for name, cell in zip(ids, table[columns.split], strict=True):
        splits.append(_split_of(cell))
        if splits[-1] is None:
            bad.fault("table", name, "unknown split", cell)
    if "val" in splits:
        return splits
    held_out = {name for name in ids if hash_share(name) < VAL_SHARE}
    return [
        "val" if split == "train" and name in held_out else split
        for split, name in zip(splits, ids, strict=True)
    ]


def _split_of(cell: str) -> str | None:
    return SPLIT_NAMES.get(cell.strip().lower())


def _task(table, name: str, training: list[int], columns: Columns, data: ConfigDict) -> Task:
    cells = {table[name][row] for row in training} - {""}
    many = name in columns.many
    if many:
        cells = {part for cell in cells for part in split_cell(cell, data.separator)}
    return Task(task_name(name), tuple(sorted(cells)), many)


def _labels(
    task: Task, cells: list[str], ids: list[str], split: str, data: ConfigDict, bad: BadRecords
) -> list[Label]:
    """The cells as labels of a task. A class that training lacks is listed and becomes unknown."""
    classes, labels = set(task.classes), []
    for identity, cell in zip(ids, cells, strict=True):
        parts = (split_cell(cell, data.separator) if task.many else (cell,)) if cell else ()
        unknown = [part for part in parts if part not in classes]
        if unknown:
            reason = f"class of {task.name} that training lacks"
            bad.note(split, identity, reason, ", ".join(unknown))
        known = parts if task.many else cell
        labels.append(known if parts and not unknown else None)
    return labels
