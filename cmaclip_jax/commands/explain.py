"""cmaclip explain: what the answers to some rows of a table rest on."""

from pathlib import Path

from cmaclip_jax.commands.arguments import make_parser
from cmaclip_jax.commands.tables import add_table_arguments, open_named_table
from cmaclip_jax.errors import UserError

HELP = """\
Writes DIR/explain.html, a page about some rows of a table: the picture, what every task of a run
answers, where each word looks in the picture (of models with two layers of sequence-wise attention
or more), and how the answers change when a word is left out.
DIR is the run's folder.

  --rows=3,17              numbers of rows, from 1, or ids; where a number is the id of another
                           row, write row:3 or id:3
"""


def run(arguments: list[str]) -> None:
    """Reads the arguments and explains."""
    parser = make_parser("explain", HELP)
    add_table_arguments(parser)
    parser.add_argument("--rows", required=True, help="which rows, as 3,17")
    parser.add_argument("--output", help="the page to write (default: DIR/explain.html)")
    explain(parser.parse_args(arguments))


def explain(options) -> None:
    """Explains the rows that the options name."""
    import jax  # what is below takes seconds to import

    from cmaclip_jax.report.explainer import Explainer
    from cmaclip_jax.report.pages import explain_page, write_page
    from cmaclip_jax.screen import Screen
    from cmaclip_jax.serving.classifier import open_classifier

    screen = Screen()
    table = open_named_table(options)
    chosen = chosen_rows(table, options.rows)
    screen.say(str(table))
    device = jax.local_devices()[:1]
    explainer = Explainer(open_classifier(options.workdir, device, options.checkpoint))
    names, pairs = [name for name, _ in chosen], [table.pair(row) for _, row in chosen]
    about = (
        f"{len(chosen)} of {table.rows:,} rows of {options.input}, answered by {options.workdir} "
        f"at step {explainer.classifier.trained.step:,}"
    )
    text = explain_page(list(explainer.explain(names, pairs)), about, explainer.why_no_maps)
    path = write_page(options.output or Path(options.workdir) / "explain.html", text)
    screen.say(f"written to {path}")


def chosen_rows(table, wanted: str) -> list[tuple]:
    """(name, row) of the rows that are asked for, in that order."""
    from cmaclip_jax.data.tables import NoRow, read_rows

    entries = list(dict.fromkeys(filter(None, (entry.strip() for entry in wanted.split(",")))))
    if not entries:
        raise UserError("--rows names no row; give numbers or ids, as --rows=3,17")
    found: dict[str, list[tuple]] = {entry: [] for entry in entries}
    for number, row in enumerate(read_rows(table.path), 1):
        name = table.identity(row, number)
        about = f"{name}: {row.reason}" if isinstance(row, NoRow) else name
        shown = name if name == f"row {number}" else f"row {number} ({about})"
        keys = {str(number), f"row:{number}", name, f"id:{name}"}
        for entry in keys & found.keys():
            found[entry].append((number, shown, row))
    return [_one(entry, rows, table) for entry, rows in found.items()]


def _one(entry: str, rows: list[tuple], table) -> tuple:
    """The one row that an entry means."""
    if not rows:
        raise UserError(
            f"{table.path} has no row {entry!r}; give a number from 1 to {table.rows:,}, or an id "
            f"of its column {table.id or table.image or '(it has none)'}"
        )
    if len(rows) > 1:
        places = ", ".join(str(number) for number, _, _ in rows[:3])
        raise UserError(f"{entry!r} means {len(rows)} rows ({places}); write row:{rows[0][0]}")
    return rows[0][1:]
