"""The pictures that a table names: their paths, and whether these may be opened."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from cmaclip_jax.data.storage import exists
from cmaclip_jax.data.table_files import base_folder
from cmaclip_jax.errors import UserError

OUTSIDE = "picture outside the data folder"
ON_THE_WEB = "picture on the web"
LOOKED_FOR = 200  # pictures to look for before a table is refused because none exists


def locate(cell: str, table: str, outside: bool) -> tuple[str | None, str]:
    """The path of the picture that a cell names, or None and why it cannot be used.

    A relative path starts at the folder of the table. A reference to a picture inside the table
    starts there too. `outside` allows pictures outside that
    folder. Backslashes separate folders, as on Windows, unless a file has them in its name.
    """
    if cell.lower().startswith(("http://", "https://")):
        return None, ON_THE_WEB
    folder = base_folder(table)
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
    """A command's flags that allow pictures outside the folder, and that read no pictures."""

    outside: str
    without: str


def check_places(cells: Iterable[str], table: str, outside: bool, flags: Flags) -> None:
    """Raises UserError if a table names pictures and none of them may be opened."""
    refused: dict[str, str] = {}  # {reason: the first cell refused for it}
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
    """Whether one of these pictures exists and may be opened. The search ends at the first."""
    return any(path and exists(path) for path, _ in (locate(x, table, outside) for x in cells))


def evenly(values: Iterable[Any], most: int) -> list[Any]:
    """Evenly spaced values: all of up to `most`, else between half of `most` and `most`."""
    chosen, step = [], 1
    for number, value in enumerate(values):
        if number % step == 0:
            chosen.append(value)
        if len(chosen) > most:
            chosen, step = chosen[::2], 2 * step
    return chosen
