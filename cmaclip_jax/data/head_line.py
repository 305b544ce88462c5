"""Whether the first line of a CSV file names the columns or is already a row."""

from collections.abc import Sequence

from cmaclip_jax.data.columns import KNOWN_NAMES, PICTURE


def why_a_row(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Why the line `names` looks like a row; '' if it may be a line of column names.

    rows: the first rows below it, without those of another width.

    Three things show a row: the path of a picture; an address with '://'; a cell that occurs again
    in its column, if that column has other values too. A column `wool` whose cells are `wool` or
    empty is a checkbox. A line that is repeated as a whole is a header written twice. Numbers show
    nothing, since columns may be called 1990, or 0, 1, 2. A line with one of the usual names, such
    as `title`, is never taken for a row.
    """
    if any(name.lower() in KNOWN_NAMES for name in names):
        return ""
    for name in names:
        if "://" in name:
            return f"{name!r} is an address"
        if PICTURE.fullmatch(name):
            return f"{name!r} is a picture's path"
    if _are_counted(names):
        return ""
    rows = [row for row in rows if list(row) != list(names)]
    for place, name in enumerate(names):
        values = {row[place] for row in rows} - {""}
        if name and name in values and len(values) > 1:
            return f"{name!r} stands in that column again"
    return ""


def _are_counted(names: Sequence[str]) -> bool:
    """Whether the names are the columns' numbers, from 0 or 1, as programs write them."""
    numbers = [name for name in names if name]
    return any(
        numbers == [str(number) for number in range(first, first + len(numbers))]
        for first in (0, 1)
    )
