"""Tables in every format, and how to read one."""

import csv
import json
from pathlib import Path

import pyarrow
from pyarrow import parquet

ROWS = [
    {
        "id": str(number),
        "image": f"images/{number % 5}.png",
        "title": f"title number {number}, with a comma",
        "colour": ("red", "NA", "None", "")[number % 4],
        "materials": ("wool|silk", "silk", "", "cotton | wool")[number % 4],
        "price": f"{number}.50",
        "year": str(2010 + number % 3),
        "brand": "same",
        "split": ("train", "train", "train", "val", "test")[number % 5],
    }
    for number in range(40)
]


def write(path: Path, rows: list[dict]) -> str:
    """Rows in the format that the name asks for."""
    if path.suffix in (".csv", ".tsv"):
        comma = "," if path.suffix == ".csv" else "\t"
        quoted = [[f'"{cell}"' if "," in cell else cell for cell in row.values()] for row in rows]
        lines = [comma.join(line) for line in (list(rows[0]), *quoted)]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def typed(row: dict) -> dict:
    """A row as typed formats have it: numbers, lists and nulls."""
    materials = [part.strip() for part in row["materials"].split("|") if part]
    return row | {
        "year": float(row["year"]),
        "price": float(row["price"]),
        "materials": materials or None,
        "colour": row["colour"] or None,
    }


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
