"""Whether the first line of a CSV file names columns, or is a row like those below it."""

from collections.abc import Sequence

from cmaclip_jax.data.columns import KNOWN_NAMES, PICTURE


def why_a_row(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """What tells that the line `names` is a row; '' where it may well be a line of names.

    rows: the first rows below it, without those of another width.

    Any of three things tells it: the path of a picture; an address with '://'; or a cell that
    stands again below, in a column that has other values as well. A column `wool` whose cells say
    `wool` or nothing is a checkbox. A line that stands again as a whole is a head that was written
    twice. Numbers alone tell nothing, since columns may be called 1990, or 0, 1, 2. A line with
    one of the usual names, such as `title`, is never taken for a row.
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
    """Whether columns without names were counted, from 0 or from 1, as programs do."""
    numbers = [name for name in names if name]
    return any(
        numbers == [str(number) for number in range(first, first + len(numbers))]
        for first in (0, 1)
    )
