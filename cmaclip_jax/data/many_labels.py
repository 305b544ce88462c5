"""Cells that hold several labels, such as `wool|silk`: splitting and recognising them."""

import collections
from collections.abc import Mapping

SEPARATORS = ("|", ",", ";", "/")  # between labels, in tables of other people


def split_cell(cell: str, separator: str) -> tuple[str, ...]:
    """The labels of a cell that may hold several."""
    return tuple(dict.fromkeys(part.strip() for part in cell.split(separator) if part.strip()))


def share_of_several(cells: Mapping[str, int], separator: str) -> float:
    """The share of a column's cells that hold several labels; 0 if that is not certain.

    cells: how often each filled cell occurs in the column.

    A part of a cell is known if another cell has it too, alone or among other parts. A column
    holds several labels if most of its cells with a separator consist of known parts only. The
    class "Sports, Outdoor" has parts that no other cell has, as have most titles and paths such as
    "Home|Kitchen|Pans". Those are not split.
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
