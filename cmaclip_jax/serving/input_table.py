"""The table that a run answers: its columns, and the pairs of its rows."""

import dataclasses
import itertools
from collections.abc import Iterator

from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.data.columns import NONE, choose_inputs, joined_text, shown
from cmaclip_jax.data.named_pictures import (
    LOOKED_FOR,
    Flags,
    any_there,
    check_places,
    evenly,
    locate,
)
from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.data.tables import LOOKED_AT, NoRow, Row, read_rows
from cmaclip_jax.errors import UserError

FLAGS = Flags("--outside", "--image=none")


@dataclasses.dataclass(frozen=True)
class InputTable:
    """A table to answer.

    rows: how many it has; 0 if they were not counted.
    id, image, text: its columns of ids, pictures and words; None, or (), if it has none.
    outside: whether its pictures may be outside its folder.
    """

    path: str
    rows: int
    id: str | None
    image: str | None
    text: tuple[str, ...]
    outside: bool = False

    def __str__(self) -> str:
        rows = f"{self.rows:,} rows; " if self.rows else ""
        return (
            f"{rows}columns: picture {shown(self.image)}; words "
            f"{' + '.join(self.text) or 'none'}; id {shown(self.id)}"
        )

    def identity(self, row: Row | NoRow, number: int) -> str:
        """The name of a row: its id, else its picture, else its number."""
        if isinstance(row, NoRow):
            return row.place
        named = row.get(self.id, "") or row.get(self.image, "")
        return named or f"row {number}"

    def pair(self, row: Row | NoRow) -> Pair:
        """The picture and the words of a row."""
        if isinstance(row, NoRow):
            return Pair(None, None)
        text = joined_text(row.get(name, "") for name in self.text)
        cell = row.get(self.image, "")
        if not cell:
            return Pair(None, text)
        path, why = locate(cell, self.path, self.outside)
        return Pair(path, text, why)

    def check_pictures(self) -> None:
        """Raises UserError if none of the pictures that the table names can be used.

        If one of the first pictures exists, the rest of the table is not read.
        """
        first = itertools.islice(self.pictures(), LOOKED_FOR)
        if any_there(first, self.path, self.outside):
            return
        some = evenly(self.pictures(), LOOKED_FOR)
        check_places(some, self.path, self.outside, FLAGS)
        if some and not any_there(some, self.path, self.outside):
            raise UserError(
                f"no picture of {self.path!r} is there, as {some[0]!r}; move the table to the "
                f"folder where its paths start, or go without pictures by {FLAGS.without}"
            )

    def pictures(self) -> Iterator[str]:
        """The cells that name a picture."""
        rows = read_rows(self.path) if self.image else ()
        for row in rows:
            if not isinstance(row, NoRow) and row.get(self.image):
                yield row[self.image]


def open_table(path: str, data: ConfigDict, identity: str = "", counts: bool = True) -> InputTable:
    """Opens a table: counts its rows, and chooses the columns that the fields of `data` name.

    identity: the column of ids. If '', it is `data.id` where the table has such a column.
    counts: whether the rows are counted, for which the whole table is read.
    """
    rows = read_rows(path)
    some = list(itertools.islice(rows, LOOKED_AT))
    cells = [row for row in some if not isinstance(row, NoRow)]
    if not cells:
        raise UserError(f"the table {path!r} has no rows; name another")
    names = dict.fromkeys(name for row in cells for name in row)
    sample = {name: [row.get(name, "") for row in cells] for name in names}
    known = data.id if data.id in (*sample, NONE) else ""
    data = with_changes(data, {"id": identity or known})
    chosen, picture, words = choose_inputs(sample, data)
    size = len(some) + sum(1 for _ in rows) if counts else 0
    return InputTable(path, size, chosen, picture, words, data.outside)
