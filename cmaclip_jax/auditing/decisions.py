"""What a person decided about suspects, and the file `decisions.csv` that keeps it.

The columns are those of `COLUMNS`; further columns may follow. The audit's page writes the file.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Iterable
from pathlib import Path

from cmaclip_jax.data.storage import open_file, why_unreadable
from cmaclip_jax.data.tables import delimiter_of, text_lines
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text

ACCEPT, KEEP, UNKNOWN = "accept", "keep", "unknown"
CHOICES = (ACCEPT, KEEP, UNKNOWN)
COLUMNS = ("table", "id", "task", "label", "decision", "new_label")


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a person decided about a label of a row.

    table: the path of the audited table, as the audit's config names it.
    label: the label that was audited.
    decision: one of `CHOICES`. An accepted decision puts `new_label` in place of the label.
    """

    table: str
    id: str
    task: str
    label: str
    decision: str
    new_label: str = ""


def read_decisions(path: str | Path) -> list[Decision]:
    """The decisions of a file; UserError names the first line that is malformed."""
    path = os.fspath(path)
    try:
        with open_file(path) as file:
            lines = list(text_lines(file))
    except OSError as error:
        raise UserError(
            f"cannot read the decisions {path!r} ({why_unreadable(error)}); name another --apply"
        ) from error
    reader = csv.reader(lines, delimiter=delimiter_of(lines[0] if lines else "", path))
    try:
        names = [name.strip() for name in next(reader, [])]
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise UserError(
                f"{path!r} lacks the column {', '.join(missing)}; a file of decisions has the "
                f"columns {','.join(COLUMNS)}"
            )
        return [_decision(path, reader.line_num, names, row) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{path!r}, line {reader.line_num}: not CSV ({error}); mend it") from error


def _decision(path: str, line: int, names: list[str], row: list[str]) -> Decision:
    if len(row) != len(names):
        raise UserError(
            f"{path!r}, line {line}: {len(row)} cells where the head has {len(names)}; mend it"
        )
    cells = dict(zip(names, (cell.strip() for cell in row), strict=True))
    made = Decision(**{name: cells[name] for name in COLUMNS})
    if made.decision not in CHOICES:
        raise UserError(
            f"{path!r}, line {line}: unknown decision {made.decision!r}; write "
            f"{', '.join(CHOICES[:-1])} or {CHOICES[-1]}"
        )
    empty = next((name for name in ("id", "task") if not cells[name]), None)
    if empty:
        raise UserError(f"{path!r}, line {line}: no {empty}; fill that cell or remove the line")
    return made


def write_decisions(
    path: str | Path, decisions: Iterable[Decision], reasons: Iterable[str] | None = None
) -> None:
    """Writes decisions, with a further column `reason` where reasons are given."""
    rows = [[getattr(one, name) for name in COLUMNS] for one in decisions]
    head = list(COLUMNS)
    if reasons is not None:
        head.append("reason")
        rows = [[*row, reason] for row, reason in zip(rows, reasons, strict=True)]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([head, *rows])
    write_text(path, file.getvalue())
