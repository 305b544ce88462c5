"""Which decisions fit a table, which do not, and why.

A decision fits if exactly one row has its id, if the table has a column of its task, and if that
row still holds the label that was audited.
"""

import collections
import dataclasses
import itertools
import os
from collections.abc import Sequence

from cmaclip_jax.auditing.change import Change, same_label
from cmaclip_jax.auditing.decisions import ACCEPT, Decision
from cmaclip_jax.data.columns import CHANGED, PICTURE, identity_column
from cmaclip_jax.data.table_files import TableFile
from cmaclip_jax.data.tables import COLUMNAR, LOOKED_AT, NoRow, Row, rows_of_file
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import task_name

GONE = "no row has the id"
SEVERAL = "several rows have the id"
NO_COLUMN = "the table has no column of the task"
CHANGED_SINCE = "the label has changed since the audit"
NO_CLASS = "the column cannot hold the new label"
TWICE = "decided in two ways"


@dataclasses.dataclass(frozen=True)
class Place:
    """A row of a table: the number of its file, its own number in it, and its cells."""

    file: int
    row: int
    cells: Row


@dataclasses.dataclass
class Fitted:
    """Decisions, sorted by whether they fit a table.

    changes: {(file, row): what changes there}.
    already: how many accepted labels the table has already.
    misfits: decisions that do not fit, with the reason.
    rows: how many the table has.
    names_pictures: whether it names pictures by relative paths.
    """

    changes: dict[tuple[int, int], list[Change]]
    already: int
    misfits: list[tuple[Decision, str]]
    rows: int
    names_pictures: bool


def fit(
    files: Sequence[TableFile], decisions: Sequence[Decision], identity: str, separator: str
) -> Fitted:
    """Looks up the rows of decisions in a table, of which one row at a time is in memory.

    identity: the column of ids; '' for the one that would be guessed.
    """
    columns = _columns(files, separator)
    tasks = {one.task for one in decisions}
    named = identity_column(columns, identity, {x for x in columns if task_name(x) in tasks})
    places, rows = _places(files, named, {one.id for one in decisions}, separator)
    if decisions and not places:
        told = "has no column of ids or pictures" if named is None else f"is read from {named!r}"
        raise UserError(
            f"none of the ids, as {decisions[0].id!r}, is in {files[0].path!r}, whose id {told}; "
            "name the column with --id, or the table with --input"
        )
    relative = any(map(_is_relative, itertools.chain.from_iterable(columns.values())))
    fitted = Fitted(collections.defaultdict(list), 0, [], rows, relative)
    of_task = {task_name(name): name for name in columns} | {name: name for name in columns}
    for (identity, task), some in _grouped(decisions).items():
        reason = _why_not(some, places.get(identity, ()), of_task.get(task), separator)
        if not reason and some[0].decision == ACCEPT:
            place, column = places[identity][0], of_task[task]
            reason = _put(fitted, some[0], place, column, files[place.file], separator)
        if reason:
            fitted.misfits += [(one, reason) for one in some]
    return fitted


def _is_relative(cell: str) -> bool:
    return bool(PICTURE.fullmatch(cell)) and "://" not in cell and not os.path.isabs(cell)


def _columns(files: Sequence[TableFile], separator: str) -> dict[str, list[str]]:
    """The first cells of every column of a table."""
    rows = (row for file in files for row in rows_of_file(file, files, separator))
    some = [row for row in itertools.islice(rows, LOOKED_AT) if not isinstance(row, NoRow)]
    if not some:
        raise UserError(f"the table {files[0].path!r} has no rows; name another with --input")
    names = dict.fromkeys(name for row in some for name in row)
    return {name: [row.get(name, "") for row in some] for name in names if name != CHANGED}


def _places(
    files: Sequence[TableFile], named: str | None, wanted: set[str], separator: str
) -> tuple[dict[str, list[Place]], int]:
    """The rows that have the wanted ids, as data/sources/table.py gives ids, and all rows' count.

    A row without an id is called by its number among the rows that can be read.
    """
    places: dict[str, list[Place]] = collections.defaultdict(list)
    count = 0
    for number, file in enumerate(files):
        for row, cells in enumerate(rows_of_file(file, files, separator)):
            if isinstance(cells, NoRow):
                continue
            count += 1
            identity = cells.get(named, "") if named is not None else ""
            identity = identity or f"row {count}"
            if identity in wanted:
                places[identity].append(Place(number, row, cells))
    return dict(places), count


def _grouped(decisions: Sequence[Decision]) -> dict[tuple[str, str], list[Decision]]:
    """The different decisions about every label."""
    grouped: dict[tuple[str, str], list[Decision]] = collections.defaultdict(list)
    for one in dict.fromkeys(decisions):
        grouped[one.id, one.task].append(one)
    return grouped


def _why_not(
    some: Sequence[Decision], places: Sequence[Place], column: str | None, separator: str
) -> str:
    """Why decisions about one label do not fit; '' if they do."""
    if len(some) > 1:
        return TWICE
    if not places:
        return GONE
    if len(places) > 1:
        return SEVERAL
    if column is None:
        return NO_COLUMN
    one, cell = some[0], places[0].cells.get(column, "")
    expected = [one.label, *([one.new_label] if one.decision == ACCEPT else [])]
    if not any(same_label(cell, label, separator) for label in expected):
        return CHANGED_SINCE
    return ""


def _put(
    fitted: Fitted, one: Decision, place: Place, column: str, file: TableFile, separator: str
) -> str:
    """Notes an accepted decision as a change; returns why its column cannot hold it, or ''."""
    cell = place.cells.get(column, "")
    if same_label(cell, one.new_label, separator):
        fitted.already += 1
        return ""
    if os.path.splitext(file.path)[1].lower() in COLUMNAR:
        from cmaclip_jax.auditing.corrected_arrow import can_hold  # imports pyarrow

        if not can_hold(file.path, column, one.new_label, separator):
            return NO_CLASS
    fitted.changes[place.file, place.row].append(Change(column, cell, one.new_label))
    return ""
