"""Corrected copies of CSV, TSV and JSON Lines files, in which all else keeps its bytes.

A copy is made from the text as it is written. Only the cells that change, and the column that says
what was changed, are new. Quotes, line ends, the encoding and malformed lines stay as they are.
"""

import csv
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from cmaclip_jax.auditing.change import Change, Changes, changed_cell
from cmaclip_jax.data.columns import CHANGED
from cmaclip_jax.data.many_labels import split_cell
from cmaclip_jax.data.storage import open_file
from cmaclip_jax.data.tables import LONGEST_CELL, UTF_16, delimiter_of

KEPT = "surrogateescape"  # so bytes that are not UTF-8 come back as they were
LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")
LINE_END = re.compile(r"\r\n|\r")
BETWEEN = re.compile(r"[\s,:]*")  # what stands between the parts of a JSON object
OPEN_QUOTE = re.compile(r'"(?:[^"]|"")*+')


def copy_text(source: str, target: BinaryIO, changes: Changes, separator: str) -> None:
    """Writes the corrected copy of a text file.

    separator: joins the labels of one cell.
    """
    csv.field_size_limit(LONGEST_CELL)
    with open_file(source) as file:
        lines, encode = _lines(file)
        if os.path.splitext(source)[1].lower() in (".csv", ".tsv"):
            copied = _csv(lines, source, changes)
        else:
            copied = _json_lines(lines, changes, separator)
        for text in copied:
            target.write(encode(text))


def _lines(file: BinaryIO) -> tuple[Iterator[str], Callable[[str], bytes]]:
    """The lines of a file, with their ends as written, and what makes bytes of them again."""
    start = file.read(2)
    file.seek(0)
    if start in UTF_16:
        order = "utf-16-le" if start == UTF_16[0] else "utf-16-be"
        whole = file.read().decode(order, "surrogatepass")
        return iter(LINE.findall(whole)), lambda text: text.encode(order, "surrogatepass")
    parts = (part for line in file for part in LINE.findall(line.decode("utf-8", KEPT)))
    return parts, lambda text: text.encode("utf-8", KEPT)


def _csv(lines: Iterator[str], source: str, changes: Changes) -> Iterator[str]:
    first = next(lines, "")
    mark, first = first[: first.startswith("\ufeff")], first.removeprefix("\ufeff")
    delimiter = delimiter_of(first, source)
    records = _records(itertools.chain([first], lines), delimiter)
    head, cells = next(records, ("", []))
    names = [name.strip() for name in cells or ()]
    body, end = _parted(head)
    yield mark + (head if CHANGED in names else f"{body}{delimiter}{CHANGED}{end}")
    number = -1
    for text, row in records:
        number += row != []  # an empty line is no row
        if not row or not _fits(row, len(names)):
            yield text
        else:
            yield _record(text, names, delimiter, changes.get(number, ()))


def _fits(row: Sequence[str], width: int) -> bool:
    """Whether the row has as many cells as the head, with or without a delimiter at its end."""
    return len(row) == width or (len(row) == width + 1 and not row[-1])


def _records(lines: Iterator[str], delimiter: str) -> Iterator[tuple[str, list[str] | None]]:
    """Every record as it is written, and its cells; None for one that is not CSV."""
    read: list[str] = []

    def noted() -> Iterator[str]:
        for line in lines:
            read.append(line)
            yield LINE_END.sub("\n", line)

    reader = csv.reader(noted(), delimiter=delimiter)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = None
        yield "".join(read), row
        read.clear()


def _record(text: str, names: list[str], delimiter: str, changes: Sequence[Change]) -> str:
    """A record with its changes, and with a cell that says them."""
    if CHANGED in names and not changes:
        return text
    body, end = _parted(text)
    cells = cells_as_written(body, delimiter)
    if OPEN_QUOTE.fullmatch(cells[-1]):  # the file ends within quotes
        cells[-1] += '"'
    del cells[len(names) :]  # after a delimiter at the line's end
    for change in changes:
        place = names.index(change.column)
        cells[place] = _cell(change.new, delimiter, quoted=cells[place].startswith('"'))
    if CHANGED in names:
        place = names.index(CHANGED)
        before = next(csv.reader([cells[place]], delimiter=delimiter), [""])[0]
        cells[place] = _cell(changed_cell(before.strip(), changes), delimiter)
    else:
        cells.append(_cell(changed_cell("", changes), delimiter))
    return delimiter.join(cells) + end


def cells_as_written(record: str, delimiter: str) -> list[str]:
    """The cells of a record without its line end, with their quotes, as Python's csv reads them."""
    mark = re.escape(delimiter)
    cell = re.compile(rf'("(?:[^"]|"")*+(?:"[^{mark}]*+)?|[^{mark}]*+)({mark}|\Z)')
    cells, place = [], 0
    while match := cell.match(record, place):
        cells.append(match[1])
        place = match.end()
        if not match[2]:
            break
    return cells


def _parted(text: str) -> tuple[str, str]:
    """A record and its line end."""
    body = text.removesuffix("\n").removesuffix("\r")
    return body, text[len(body) :]


def _cell(value: str, delimiter: str, quoted: bool = False) -> str:
    file = io.StringIO()
    writer = csv.writer(file, csv.unix_dialect if quoted else csv.excel, delimiter=delimiter)
    writer.writerow([value, ""])
    return file.getvalue().rstrip("\r\n").removesuffix('""').removesuffix(delimiter)


def _json_lines(lines: Iterator[str], changes: Changes, separator: str) -> Iterator[str]:
    number = -1
    for line in lines:
        text = line.removeprefix("\ufeff")
        number += bool(text.strip())
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        if isinstance(row, dict):
            some = changes.get(number, ())
            values = {one.column: _typed(one.new, row.get(one.column), separator) for one in some}
            values[CHANGED] = changed_cell(row.get(CHANGED), some)
            yield line[: len(line) - len(text)] + _with_values(text, values)
        else:
            yield line


def _with_values(text: str, values: dict) -> str:
    """The text of a JSON object with some values in place of those that it has, or after them."""
    spans, end = _spans(text)
    added = [f"{json.dumps(name)}: {_json(values[name])}" for name in values if name not in spans]
    if added:
        text = text[:end] + ", " * bool(spans) + ", ".join(added) + text[end:]
    for name in sorted(spans.keys() & values.keys(), key=spans.get, reverse=True):
        start, stop = spans[name]
        text = text[:start] + _json(values[name]) + text[stop:]
    return text


def _spans(text: str) -> tuple[dict[str, tuple[int, int]], int]:
    """Where the values of a JSON object stand in its text, and where the last of them ends."""
    decoder, spans = json.JSONDecoder(), {}
    end = text.index("{") + 1
    while True:
        place = BETWEEN.match(text, end).end()
        if text[place] == "}":
            return spans, end
        name, place = decoder.raw_decode(text, place)
        start = BETWEEN.match(text, place).end()
        _, end = decoder.raw_decode(text, start)
        spans[name] = (start, end)


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False)


def _typed(label: str, before, separator: str):
    """A label as a value of the kind that it replaces, where it can be one."""
    if isinstance(before, list):
        return [
            _typed(x, before[0] if before else "", separator) for x in split_cell(label, separator)
        ]
    if isinstance(before, bool):
        return {"true": True, "false": False}.get(label, label)
    if isinstance(before, int | float):
        try:
            return type(before)(label)
        except ValueError:
            return label
    return label
