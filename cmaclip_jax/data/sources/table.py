"""Your own table: one row per pair, with a picture's path, words, and a column per task.

An empty cell is an unknown label. Classes are those of the training rows; another one in a
later split is listed and counts as unknown. Without a column `split`, a hash of the id (or of the
picture's path, or of the row's number) sends 80 % to train, 10 % to val and 10 % to test.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence

from ml_collections import ConfigDict

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.columns import Columns, choose_columns, without_constants
from cmaclip_jax.data.records import Label, Record, Sources, hash_share
from cmaclip_jax.data.tables import SEPARATOR, read_table
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import Task

SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | {
    name: "val" for name in ("val", "valid", "validation", "dev")
}
SHARES = (("train", 0.8), ("val", 0.9), ("test", 1.0))  # of a hash, up to here
VAL_SHARE = 0.1  # of the training rows, where the table has a split but no val


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one split. `answers` has every task's labels, row by row."""

    tasks: tuple[Task, ...]
    ids: Sequence[str]
    images: Sequence[str | None]
    texts: Sequence[str | None]
    answers: dict[str, Sequence[Label]]
    description: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        labels = {name: column[index] for name, column in self.answers.items()}
        return Record(self.ids[index], self.images[index], self.texts[index], labels)

    @property
    def paths(self) -> Sequence[str | None]:
        return self.images

    def text(self, index: int) -> str | None:
        return self.texts[index]

    def labels(self, task: str) -> Sequence[Label]:
        return self.answers[task]


def open_splits(data: ConfigDict, bad: BadRecords) -> Sources:
    """The splits of the table at `data.path`."""
    if not data.path:
        raise UserError("data.source='table' needs data.path: a .csv, .tsv, .jsonl or .parquet")
    table = read_table(data.path, functools.partial(bad.fault, "table"))
    columns = choose_columns(table, data)
    size = len(next(iter(table.values())))
    ids = _ids(table, columns, size, bad)
    splits = _splits(table, columns, ids, bad)
    images = [_image(cell, data, bad, splits[i], ids[i]) for i, cell in _cells(table, columns)]
    members = collections.defaultdict(list)
    for row, split in enumerate(splits):
        if split and not (images[row] == OUTSIDE and bad.policy == "skip"):
            members[split].append(row)
    if not members["train"]:
        raise UserError(f"no row of {data.path!r} is in train; see its column {columns.split!r}")
    if not data.labels:
        columns = without_constants(columns, table, members["train"])
    tasks = tuple(_task(table, name, members["train"], data.many) for name in columns.tasks)
    texts = [_text(table, columns.text, row) for row in range(size)]

    def rows(split: str, chosen: list[int]) -> Rows:
        def of(values):
            return [values[row] for row in chosen]

        return Rows(
            tasks=tasks,
            ids=of(ids),
            images=[None if image == OUTSIDE else image for image in of(images)],
            texts=of(texts),
            answers={
                task.name: _labels(task, of(table[task.name]), _unknown(bad, split, of(ids)))
                for task in tasks
            },
            description=str(columns),
        )

    return {split: rows(split, members[split]) for split, _ in SHARES if members[split]}


OUTSIDE = "\0"  # no path: one that must not be opened


def _cells(table, columns: Columns):
    size = len(next(iter(table.values())))
    return enumerate(table[columns.image] if columns.image else [""] * size)


def _image(cell: str, data: ConfigDict, bad: BadRecords, split, identity: str) -> str | None:
    if not cell:
        return None
    path = picture_path(cell, data.path, data.outside)
    if path is None:
        stays = bad.policy == "no_image"
        bad.fault(split or "table", identity, "picture outside the data folder", cell, stays)
    return path or OUTSIDE


def picture_path(cell: str, table: str, outside: bool) -> str | None:
    """Where the picture of a cell lies; relative paths start at the table's own folder.

    None: outside that folder, where that is not allowed.
    """
    folder = os.path.dirname(table)
    path = cell if "://" in cell else os.path.join(folder, cell)
    if outside:
        return path
    if "://" in path:
        base = folder if "://" in folder else os.path.abspath(folder)
        return path if path.startswith(f"{base}/") and ".." not in path else None
    base = os.path.abspath(folder)
    return path if os.path.commonpath([base, os.path.abspath(path)]) == base else None


def _ids(table, columns: Columns, size: int, bad: BadRecords) -> list[str]:
    """The rows' names: their id, else their picture's path, else their number."""
    named = columns.image if columns.id is None else columns.id
    cells = [""] * size if named is None else table[named]
    ids = [cell or f"row {number}" for number, cell in enumerate(cells, 1)]
    if columns.id is not None:
        for value, count in collections.Counter(ids).items():
            if count > 1:
                bad.note("table", value, "id that several rows have", f"{count} rows")
    return ids


def _splits(table, columns: Columns, ids: list[str], bad: BadRecords) -> list[str | None]:
    """Every row's split; None where the table names one that nobody knows."""
    if not columns.split:
        return [next(split for split, end in SHARES if hash_share(name) < end) for name in ids]
    splits = []
    for name, cell in zip(ids, table[columns.split], strict=True):
        splits.append(SPLIT_NAMES.get(cell.strip().lower()))
        if splits[-1] is None:
            bad.fault("table", name, "unknown split", cell)
    if "val" in splits:
        return splits
    carve = {name for name in ids if hash_share(name) < VAL_SHARE}
    return [
        "val" if split == "train" and name in carve else split
        for split, name in zip(splits, ids, strict=True)
    ]


def _text(table, names: Sequence[str], row: int) -> str | None:
    return joined_text(table[name][row] for name in names)


def joined_text(cells: Iterable[str]) -> str | None:
    """The words of a row whose cells these are; None where it has none."""
    return " ".join(filter(None, (cell.strip() for cell in cells))) or None


def _task(table, name: str, training: list[int], many: Sequence[str]) -> Task:
    cells = {table[name][row] for row in training} - {""}
    if name in many:
        return Task(
            name, tuple(sorted({part for cell in cells for part in split_cell(cell)})), True
        )
    return Task(name, tuple(sorted(cells)))


def split_cell(cell: str) -> tuple[str, ...]:
    """The labels of a cell that may hold several."""
    return tuple(dict.fromkeys(part.strip() for part in cell.split(SEPARATOR) if part.strip()))


def _labels(task: Task, cells: Sequence[str], unknown: Callable) -> list[Label]:
    """The cells as labels of a task; what is none of its classes goes to `unknown`."""
    classes, labels = set(task.classes), []
    for row, cell in enumerate(cells):
        parts = (split_cell(cell) if task.many else (cell,)) if cell else ()
        strange = [part for part in parts if part not in classes]
        if strange:
            unknown(row, task.name, strange)
        if not parts or strange:
            labels.append(None)
        else:
            labels.append(parts if task.many else cell)
    return labels


def _unknown(bad: BadRecords, split: str, ids: Sequence[str]) -> Callable:
    def report(row: int, task: str, classes: list[str]) -> None:
        reason = f"class of {task} that training lacks"
        bad.note(split, ids[row], reason, ", ".join(classes))

    return report
