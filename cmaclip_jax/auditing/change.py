"""A change of one cell of a table, and how the table's column `changed` says it."""

import dataclasses
from collections.abc import Mapping, Sequence

from cmaclip_jax.data.many_labels import split_cell


@dataclasses.dataclass(frozen=True)
class Change:
    """The cell in `column` holds the label `old`, and gets the label `new`."""

    column: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.column}: {self.old or '(empty)'} -> {self.new or '(empty)'}"


Changes = Mapping[int, Sequence[Change]]  # {number of a row in its file, from 0: its changes}


def changed_cell(before: str | None, changes: Sequence[Change]) -> str:
    """The cell of the column `changed`, after what earlier corrections left in it."""
    return "; ".join([*([before] if before else []), *map(str, changes)])


def same_label(one: str, other: str, separator: str) -> bool:
    """Whether two cells hold the same label, or the same labels in any order."""
    return one == other or set(split_cell(one, separator)) == set(split_cell(other, separator))
