"""The rows of a table that the user names by number or id."""

from cmaclip_jax.data.tables import NoRow, Row, read_rows
from cmaclip_jax.errors import UserError
from cmaclip_jax.serving.input_table import InputTable


def chosen_rows(table: InputTable, wanted: str) -> list[tuple[str, Row | NoRow]]:
    """(name, row) of the rows with the numbers or ids in `wanted`, in that order."""
    entries = list(dict.fromkeys(filter(None, (entry.strip() for entry in wanted.split(",")))))
    if not entries:
        raise UserError("--rows names no row; give numbers or ids, as --rows=3,17")
    matches: dict[str, list[tuple]] = {entry: [] for entry in entries}
    for number, row in enumerate(read_rows(table.path), 1):
        name = table.identity(row, number)
        about = f"{name}: {row.reason}" if isinstance(row, NoRow) else name
        title = name if name == f"row {number}" else f"row {number} ({about})"
        keys = {str(number), f"row:{number}", name, f"id:{name}"}
        for entry in keys & matches.keys():
            matches[entry].append((number, title, row))
    return [_only(entry, rows, table) for entry, rows in matches.items()]


def _only(entry: str, rows: list[tuple], table: InputTable) -> tuple[str, Row | NoRow]:
    """The only row that matches an entry, with its name."""
    if not rows:
        raise UserError(
            f"{table.path} has no row {entry!r}; give a number from 1 to {table.rows:,}, or an id "
            f"of its column {table.id or table.image or '(it has none)'}"
        )
    if len(rows) > 1:
        places = ", ".join(str(number) for number, _, _ in rows[:3])
        raise UserError(f"{entry!r} means {len(rows)} rows ({places}); write row:{rows[0][0]}")
    return rows[0][1:]
