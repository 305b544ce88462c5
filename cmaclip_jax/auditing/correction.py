"""Applies a person's decisions to the table that was audited.

The corrected table has the same columns and rows, in the same order and format, and a further
column `changed`. Only an accepted decision changes a cell, and only if the row still holds the
label that was audited. Decisions that do not fit are written to a file beside the corrected table.
"""

import collections
import json
import os
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from cmaclip_jax.auditing.corrected_text import copy_text
from cmaclip_jax.auditing.decisions import (
    ACCEPT,
    KEEP,
    UNKNOWN,
    Decision,
    read_decisions,
    write_decisions,
)
from cmaclip_jax.auditing.fitting import Fitted, fit
from cmaclip_jax.auditing.label_studio import read_annotations
from cmaclip_jax.data.columns import CHANGED
from cmaclip_jax.data.table_files import TableFile, base_folder, is_pattern, table_files
from cmaclip_jax.data.tables import COLUMNAR, SEPARATOR
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import whole_file, write_text

OTHER_TABLE = "about another table"
INFO = "dataset_info.json"  # describes the columns of a folder that `datasets` saved
SAVED_FILES = ("state.json", "dataset_dict.json", INFO)


def apply_file(
    path: str, output: str, table: str = "", identity: str = "", separator: str = SEPARATOR
) -> list[str]:
    """Applies the decisions of a file to a table; returns lines to print.

    path: decisions.csv, or the JSON that Label Studio exports.
    table: the audited table, if not at the path that the decisions name.
    identity: its column of ids, if the audit's config names one in `data.id`.
    separator: joins the labels of one cell; `data.separator` of the audit's config.
    """
    is_json = path.lower().endswith(".json")
    decisions = read_annotations(path, separator) if is_json else read_decisions(path)
    if not decisions:
        raise UserError(f"{path!r} holds no decision; decide on the audit's page and save again")
    tables = sorted({one.table for one in decisions})
    if not table and (len(tables) > 1 or not tables[0]):
        what = f"{len(tables)} tables ({', '.join(tables)})" if len(tables) > 1 else "no table"
        raise UserError(f"{path!r} names {what}; name the one to correct with --input")
    own = [one for one in decisions if len(tables) == 1 or one.table == table]
    others = [(one, OTHER_TABLE) for one in decisions if len(tables) > 1 and one.table != table]
    table = table or tables[0]
    if "://" not in table and not os.path.exists(table) and not is_pattern(table):
        raise UserError(
            f"there is no table {table!r}, seen from {os.getcwd()}; name it with --input"
        )
    return apply_decisions(table, own, output, identity, separator, others)


def apply_decisions(
    table: str,
    decisions: Sequence[Decision],
    output: str,
    identity: str = "",
    separator: str = SEPARATOR,
    misfits: Sequence[tuple[Decision, str]] = (),
) -> list[str]:
    """Writes the corrected table; returns lines to print. The arguments are those of `apply_file`.

    output: a file with the ending of the table, or a folder where the table is several files.
    misfits: further decisions that cannot be applied, with the reason.
    """
    files = table_files(table)
    targets = _targets(files, table, output)
    fitted = fit(files, decisions, identity, separator)
    fitted.misfits += misfits
    for number, (file, target) in enumerate(zip(files, targets, strict=True)):
        rows = {row: some for (place, row), some in fitted.changes.items() if place == number}
        _write(file.path, target, rows, separator)
    if os.path.isdir(table):
        _copy_descriptions(files, targets)
    rest = _write_misfits(fitted, output)
    return _lines(fitted, decisions, table, output, rest)


def _targets(files: Sequence[TableFile], table: str, output: str) -> list[str]:
    """The path of every file of the corrected table."""
    several = os.path.isdir(table) or is_pattern(table)
    ending = os.path.splitext(table)[1]
    if not several and os.path.splitext(output)[1].lower() != ending.lower():
        raise UserError(f"cannot write {output!r}: the format stays, so --output ends in {ending}")
    if several and os.path.isfile(output):
        raise UserError(f"{output!r} is a file, and {table!r} is several; name a folder")
    if not several and os.path.isdir(output):
        raise UserError(f"{output!r} is a folder; name a file that ends in {ending}")
    targets = [os.path.join(output, file.name) if several else output for file in files]
    for file, target in zip(files, targets, strict=True):
        if os.path.exists(target) and os.path.samefile(file.path, target):
            raise UserError(f"{output!r} is the table itself; name another --output")
    return targets


def _write(source: str, target: str, changes: dict, separator: str) -> None:
    copy = copy_text
    if os.path.splitext(source)[1].lower() in COLUMNAR:
        from cmaclip_jax.auditing.corrected_arrow import copy_arrow  # imports pyarrow

        copy = copy_arrow
    try:
        path = epath.Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, part.open("wb") as file:
            copy(source, file, changes, separator)
    except OSError as error:
        raise UserError(
            f"cannot write {target!r} ({error.strerror}); name another --output"
        ) from error


def _copy_descriptions(files: Sequence[TableFile], targets: Sequence[str]) -> None:
    """Copies what `datasets` saves beside Arrow files, and above the folders of splits."""
    pairs = zip(files, targets, strict=True)
    folders = {(Path(file.path).parent, Path(target).parent) for file, target in pairs}
    folders |= {(source.parent, target.parent) for source, target in set(folders)}
    for source, target in folders:
        for file in (source / name for name in SAVED_FILES):
            if file.exists():
                text = file.read_text(encoding="utf-8")
                write_text(target / file.name, _described(text) if file.name == INFO else text)


def _described(text: str) -> str:
    """The description of a saved folder's columns, with the column `changed`."""
    info = json.loads(text)
    if info.get("features"):
        info["features"][CHANGED] = {"dtype": "string", "_type": "Value"}
    return json.dumps(info, indent=2)


def _write_misfits(fitted: Fitted, output: str) -> epath.Path:
    """Writes the decisions that do not fit; removes the file of an earlier time if all fit."""
    path = epath.Path(output.rstrip("/"))
    path = path.with_name(f"{path.stem}.unapplied.csv")
    if fitted.misfits:
        decisions, reasons = zip(*fitted.misfits, strict=True)
        write_decisions(path, decisions, reasons)
    else:
        path.unlink(missing_ok=True)
    return path


def _lines(
    fitted: Fitted, decisions: Sequence[Decision], table: str, output: str, rest: epath.Path
) -> list[str]:
    kinds = collections.Counter(one.decision for one in decisions)
    cells = sum(map(len, fitted.changes.values()))
    lines = [
        f"decisions: {len(decisions):,} ({kinds[ACCEPT]:,} accepted, {kinds[KEEP]:,} kept, "
        f"{kinds[UNKNOWN]:,} unknown)",
        f"changed cells: {cells:,}, in {len(fitted.changes):,} of {fitted.rows:,} rows",
    ]
    if fitted.already:
        lines.append(f"accepted labels that the table has already: {fitted.already:,}")
    reasons = collections.Counter(reason for _, reason in fitted.misfits)
    for reason, count in reasons.items():
        first = next(one for one, why in fitted.misfits if why == reason)
        lines.append(f"not applied: {count:,}, {reason} (as {first.task} of {first.id!r})")
    if fitted.misfits:
        lines.append(f"attention: all {len(fitted.misfits):,} that were not applied are in {rest}")
    folder = base_folder(table) or "."
    own = output if os.path.isdir(output) else os.path.dirname(output) or "."
    if fitted.names_pictures and os.path.realpath(folder) != os.path.realpath(own):
        lines.append(f"attention: its pictures' paths start at {folder}; move the table there")
    return [*lines, f"written to {output}"]
