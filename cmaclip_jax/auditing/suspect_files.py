"""The file `audit.csv`: every suspect of an audit, worst first."""

import collections
import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from cmaclip_jax.auditing.suspect import Suspect
from cmaclip_jax.data.tables import SEPARATOR
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text

COLUMNS = tuple(field.name for field in dataclasses.fields(Suspect))


def worst_first(suspects: Iterable[Suspect]) -> list[Suspect]:
    """The likely ones before the others, and in each part the worst of every task by turns.

    The doubts of two tasks cannot be compared, but the ranks within the tasks can.
    """
    ordered = sorted(suspects, key=lambda one: (not one.likely, -one.doubt, one.row, one.task))
    seen: collections.Counter = collections.Counter()
    ranks = []
    for suspect in ordered:
        kind = (suspect.likely, suspect.task)
        ranks.append((not suspect.likely, seen[kind]))
        seen[kind] += 1
    order = sorted(range(len(ordered)), key=ranks.__getitem__)
    return [ordered[place] for place in order]


def write_suspects(path: str | Path, suspects: Iterable[Suspect]) -> None:
    """Writes the suspects, worst first. A number keeps all its digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for suspect in worst_first(suspects):
        cells = dataclasses.asdict(suspect) | {"twins": _joined(suspect.twins)}
        cells["likely"] = str(suspect.likely).lower()
        writer.writerow(cells[name] for name in COLUMNS)
    write_text(path, file.getvalue())


def read_suspects(path: str | Path) -> list[Suspect]:
    """The suspects that `write_suspects` wrote, in the same order."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path} is no list of suspects: it has no column {missing[0]!r}; name the "
                "audit.csv of an audit"
            )
        try:
            return [_suspect(row) for row in reader]
        except (ValueError, TypeError, csv.Error) as error:
            raise UserError(
                f"{path}, line {reader.line_num}: no suspect ({error}); make the file anew"
            ) from error


def _suspect(row: dict[str, str]) -> Suspect:
    twins = next(csv.reader(io.StringIO(row["twins"], ""), delimiter=SEPARATOR), ())
    return Suspect(
        row=int(row["row"]),
        id=row["id"],
        split=row["split"],
        task=row["task"],
        label=row["label"],
        suggestion=row["suggestion"],
        label_probability=float(row["label_probability"]),
        suggestion_probability=float(row["suggestion_probability"]),
        doubt=float(row["doubt"]),
        likely=row["likely"].lower() == "true",  # a spreadsheet writes TRUE
        twins=tuple(twins),
    )


def _joined(names: Sequence[str]) -> str:
    """Names in one cell; a name with the separator in it is quoted."""
    file = io.StringIO()
    csv.writer(file, delimiter=SEPARATOR).writerow(names)
    return file.getvalue().removesuffix("\r\n")
