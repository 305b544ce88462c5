"""Landmarks in text files: iBUG's .pts files, and tables with a row per frame or per point."""

import csv
import re
from pathlib import Path

import numpy as np

from cmaclip_jax.errors import UserError

# x0, x_0, P1x, p1_x: one coordinate of a point. X_0 is a point in space, written by OpenFace.
COLUMNS = (re.compile(r"([xy])_?(\d+)"), re.compile(r"[Pp]?_?(\d+)_?([xy])"))
FORMAT_HINT = "write frame,x0,y0,x1,y1,... or frame,point,x,y in the first line"

Named = tuple[list[str], np.ndarray]  # the frames' names, and points [frames, points, 2]


def natural(name: str) -> tuple:
    """A sort key for names: frame2 comes before frame10, and 0.5 before 2."""
    try:
        value = float(name)
    except ValueError:
        value = np.nan
    if np.isfinite(value):
        return (0, value, ())
    parts = re.split(r"(\d+)", name)
    return (1, 0.0, tuple((int(x), "") if x.isdecimal() else (-1, x) for x in parts))


def read_pts(path: Path) -> Named:
    """The face in a .pts file: a header, and one point per line between braces."""
    lines = [(number, line.strip()) for number, line in enumerate(_lines(path), start=1)]
    lines = [(number, line) for number, line in lines if line]
    braces = [place for place, (_, line) in enumerate(lines) if line in "{}"]
    if [lines[place][1] for place in braces] != ["{", "}"]:
        raise UserError(f"{path} is no .pts file: its points should be between one {{ and one }}")
    first, last = braces
    points = [_pair(path, number, line) for number, line in lines[first + 1 : last]]
    count = _announced(path, lines[:first])
    if count is not None and count != len(points):
        raise UserError(
            f"{path}: n_points says {count}, but {len(points)} points follow; "
            f"correct the header or the lines up to {lines[last][0]}"
        )
    return [path.stem], np.array(points, np.float64).reshape(1, -1, 2)


def _announced(path: Path, header: list[tuple[int, str]]) -> int | None:
    """The number of points in the header; None if the header has none."""
    for number, line in header:
        key, _, value = line.partition(":")
        if key.strip() == "n_points":
            if not value.strip().isdigit():
                raise UserError(f"{path}, line {number}: n_points should be a number, not {value}")
            return int(value)
    return None


def _pair(path: Path, number: int, line: str) -> tuple[float, float]:
    try:
        x, y = map(float, line.split())
    except ValueError as error:
        raise UserError(
            f"{path}, line {number}: {line[:40]!r} should be two numbers, as 30.5 61.25"
        ) from error
    return x, y


def read_table(path: Path) -> Named:
    """A table of points; a point is missing if it is at (0, 0), empty or NaN."""
    rows = csv.reader(_lines(path), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        table = [(rows.line_num, [cell.strip() for cell in row]) for row in rows if any(row)]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}; write it as plain CSV") from error
    if len(table) < 2:
        raise UserError(f"{path} holds no frames; {FORMAT_HINT}")
    (_, head), *body = table
    for number, row in body:
        if len(row) != len(head):
            raise UserError(
                f"{path}, line {number}: it has {len(row)} cells and the first line {len(head)}"
            )
    names = [name.lower() for name in head]
    is_long = {"frame", "point", "x", "y"} <= set(names)
    frames, points = _long(path, names, body) if is_long else _wide(path, head, body)
    points[(points == 0).all(-1)] = np.nan
    return frames, points


def _long(path: Path, head: list[str], body: list[tuple[int, list[str]]]) -> Named:
    """A table with one row per point."""
    places = [head.index(name) for name in ("frame", "point", "x", "y")]
    cells = {}
    for number, row in body:
        frame, point, x, y = (row[place] for place in places)
        if (frame, point) in cells:
            raise UserError(
                f"{path}, line {number}: frame {frame} has point {point} already; keep one face"
            )
        cells[frame, point] = [_number(path, number, cell) for cell in (x, y)]
    frames = list(dict.fromkeys(frame for frame, _ in cells))
    points = sorted({point for _, point in cells}, key=natural)
    missing = [np.nan, np.nan]
    return frames, np.array([[cells.get((f, p), missing) for p in points] for f in frames])


def _wide(path: Path, head: list[str], body: list[tuple[int, list[str]]]) -> Named:
    """A table with one row per frame: the name in the first column, two columns per point."""
    places: dict[str, dict[int, int]] = {"x": {}, "y": {}}
    for place, name in enumerate(head[1:], start=1):
        if found := _coordinate(name):
            places[found[0]][found[1]] = place
    if not places["x"]:
        raise UserError(f"{path}: its first line names no points; {FORMAT_HINT}")
    if odd := sorted(places["x"].keys() ^ places["y"].keys()):
        raise UserError(f"{path}: point {odd[0]} has no column x or no column y; {FORMAT_HINT}")
    order = [places[axis][point] for point in sorted(places["x"]) for axis in "xy"]
    frames: dict[str, list[float]] = {}
    for number, row in body:
        if row[0] in frames:
            raise UserError(f"{path}, line {number}: frame {row[0]} occurs twice; keep one face")
        frames[row[0]] = [_number(path, number, row[place]) for place in order]
    points = np.array(list(frames.values()), np.float64).reshape(len(frames), -1, 2)
    return list(frames), points


def _coordinate(name: str) -> tuple[str, int] | None:
    """The axis and the number of the point that a column holds, or None."""
    if match := COLUMNS[0].fullmatch(name):
        return match[1], int(match[2])
    if match := COLUMNS[1].fullmatch(name):
        return match[2], int(match[1])
    return None


def _number(path: Path, number: int, cell: str) -> float:
    try:
        return float(cell) if cell else np.nan
    except ValueError as error:
        raise UserError(f"{path}, line {number}: {cell[:40]!r} should be a number") from error


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text; write it in UTF-8") from error
