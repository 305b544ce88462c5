"""Cells that hold several labels, such as `wool|silk`: how they are split, how they are told."""

import collections
from collections.abc import Mapping

SEPARATORS = ("|", ",", ";", "/")  # that people write between labels


def split_cell(cell: str, separator: str) -> tuple[str, ...]:
    """The labels of a cell that may hold several."""
    return tuple(dict.fromkeys(part.strip() for part in cell.split(separator) if part.strip()))


def share_of_several(cells: Mapping[str, int], separator: str) -> float:
    """The share of a column's cells that hold several labels; 0 where none does for sure.

    cells: how often each filled cell stands in the column.

    A part of a cell is known if another cell has it too, by itself or beside other parts. A column
    holds labels if most of its cells with a separator consist of known parts alone. The class
    "Sports, Outdoor" has parts that stand nowhere else, and so has nearly every title and every
    path such as "Home|Kitchen|Pans": they are left whole.
    """
    if not any(separator in cell for cell in cells):
        return 0.0
    parts = {cell: split_cell(cell, separator) for cell in cells}
    holders = collections.Counter(part for some in parts.values() for part in some)
    several = [cell for cell in cells if len(parts[cell]) > 1]
    known = [cell for cell in several if all(holders[part] > 1 for part in parts[cell])]
    count = sum(cells[cell] for cell in several)
    if sum(cells[cell] for cell in known) <= count / 2:
        return 0.0
    return count / sum(cells.values())
