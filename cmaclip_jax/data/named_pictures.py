"""The pictures that a table names: where they lie, and whether they may be opened."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from cmaclip_jax.data.storage import exists
from cmaclip_jax.errors import UserError

OUTSIDE = "picture outside the data folder"
ON_THE_WEB = "picture on the web"
LOOKED_FOR = 200  # pictures of a table at most, before it is said that none is there


def locate(cell: str, table: str, outside: bool) -> tuple[str | None, str]:
    """Where the picture of a cell lies, or None and why it cannot be used.

    A relative path starts at the folder of the table; `outside` says whether it may leave that
    folder. Backslashes, as Windows writes paths, part folders where no file has them in its name.
    """
    if cell.lower().startswith(("http://", "https://")):
        return None, ON_THE_WEB
    folder = os.path.dirname(table)
    path = cell if "://" in cell else os.path.join(folder, cell)
    if "\\" in cell and ("://" in path or not os.path.exists(path)):
        return locate(cell.replace("\\", "/"), table, outside)
    return (path, "") if outside or _is_inside(path, folder) else (None, OUTSIDE)


def _is_inside(path: str, folder: str) -> bool:
    if "://" in path:
        base = folder if "://" in folder else os.path.abspath(folder)
        return path.startswith(f"{base}/") and ".." not in path
    base = os.path.abspath(folder)
    return os.path.commonpath([base, os.path.abspath(path)]) == base


@dataclasses.dataclass(frozen=True)
class Flags:
    """What a command calls two choices: that pictures may lie outside, and to go without any."""

    outside: str
    without: str


def check_places(cells: Iterable[str], table: str, outside: bool, flags: Flags) -> None:
    """Raises UserError for a table none of whose pictures may be opened, by what it names."""
    refused: dict[str, str] = {}  # by reason the first cell
    for cell in cells:
        path, why = locate(cell, table, outside)
        if path:
            return
        refused.setdefault(why, cell)
    if OUTSIDE in refused:
        raise UserError(
            f"no picture of {table!r} lies in its folder, as {refused[OUTSIDE]!r}; allow that with "
            f"{flags.outside}, or go without pictures by {flags.without}"
        )
    if refused:
        raise UserError(
            f"the pictures of {table!r} are addresses, as {refused[ON_THE_WEB]!r}, and nothing is "
            "fetched; save them as files or in a bucket and name those, or go without pictures by "
            f"{flags.without}"
        )


def any_there(cells: Iterable[str], table: str, outside: bool) -> bool:
    """Whether one of these pictures is a file that may be opened; the first one ends the search."""
    return any(path and exists(path) for path, _ in (locate(x, table, outside) for x in cells))


def evenly(values: Iterable[Any], most: int) -> list[Any]:
    """Between half of `most` and `most` values, at even distances, from any number."""
    kept, step = [], 1
    for number, value in enumerate(values):
        if number % step == 0:
            kept.append(value)
        if len(kept) > most:
            kept, step = kept[::2], 2 * step
    return kept
