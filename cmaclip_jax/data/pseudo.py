"""Pseudo-labels: rows whose labels a model gave, which join the training rows with a weight.

They stand in a table with the columns of the run's own table (`train.pseudo`); `cmaclip label`
writes such tables. They are read for training alone, so no figure is ever computed on them. The
classes stay those of the run's own rows.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.packed_strings import PackedStrings
from cmaclip_jax.data.records import Label, Record, Source, Sources
from cmaclip_jax.data.sources.table import Rows, open_alike
from cmaclip_jax.data.storage import EMBEDDED
from cmaclip_jax.errors import UserError

PSEUDO = "pseudo"  # what lists of bad records call these rows, as if they were a split
NUMBER = re.compile(r"row \d+")  # the id of a row that has none
HELD_OUT = "pseudo-label of a row of another split"


@dataclasses.dataclass(frozen=True)
class PseudoRows(Rows):
    """Rows with pseudo-labels. weight: of every record. about: a line to be printed."""

    weight: float = 1.0
    about: str = ""

    def __getitem__(self, index: int) -> Record:
        return dataclasses.replace(super().__getitem__(index), weight=self.weight)


def open_pseudo(
    path: str, weight: float, sources: Sources, data: ConfigDict, bad: BadRecords
) -> PseudoRows:
    """The rows of the table at `path` that can join the training rows of `sources`.

    Left out are rows with the id of a row of another split, and rows without any label. A row with
    the id of a training row keeps only the labels which that row lacks. Ids that are only the
    numbers of rows are not compared.
    """
    training = sources[data.split]
    if not isinstance(training, Rows):
        raise UserError("train.pseudo needs data.source='table'")
    rows = open_alike(path, training, PSEUDO, data, bad)
    labels = {task.name: list(rows.labels(task.name)) for task in rows.tasks}
    _forget_known(labels, rows, training)
    held_out = {name for split, s in sources.items() if split != data.split for name in _ids(s)}
    labelled = [any(column[row] for column in labels.values()) for row in range(len(rows))]
    left_out = [name in held_out for name in rows.ids]
    for name in (name for name, out in zip(rows.ids, left_out, strict=True) if out):
        bad.note(PSEUDO, name, HELD_OUT, path)
    kept = [row for row in range(len(rows)) if labelled[row] and not left_out[row]]
    if not kept:
        raise UserError(
            f"no row of train.pseudo={path!r} has a label of {', '.join(labels)} and is in no other"
            " split; name a table that `cmaclip label` wrote, or leave train.pseudo out"
        )
    lines = [
        f"pseudo-labels: {len(kept):,} rows of {path} with weight {weight:g}",
        ", ".join(f"{name} {sum(map(bool, c)):,}" for name, c in _of(labels, kept).items()),
        f"left out: {sum(left_out):,} of other splits, {labelled.count(False):,} without a label",
    ]
    if any(map(NUMBER.fullmatch, rows.ids)):
        lines.append(
            "its rows have no ids, so rows of other splits are not found; name ids with data.id"
        )
    ids, images, texts = (
        PackedStrings(column[row] for row in kept) for column in (rows.ids, rows.images, rows.texts)
    )
    found: dict[str, Sequence[Label]] = dict(_of(labels, kept))
    return PseudoRows(rows.tasks, ids, images, texts, found, rows.columns, weight, "; ".join(lines))


def _forget_known(labels: dict[str, list[Label]], rows: Rows, training: Rows) -> None:
    """Takes away the labels of rows that are training rows and have such a label there."""
    places = {name: place for place, name in enumerate(training.ids) if _tells(name)}
    shared = [(row, places[name]) for row, name in enumerate(rows.ids) if name in places]
    for task, column in labels.items():
        known = training.labels(task)
        for row, place in shared:
            column[row] = None if known[place] is not None else column[row]


def _ids(source: Source) -> Iterator[str]:
    """The ids that tell which row of another table is the same."""
    return (name for name in getattr(source, "ids", ()) if _tells(name))


def _tells(name: str) -> bool:
    return not (NUMBER.fullmatch(name) or EMBEDDED.fullmatch(name))


def _of(labels: dict[str, list[Label]], kept: list[int]) -> dict[str, list[Label]]:
    return {name: [column[row] for row in kept] for name, column in labels.items()}
