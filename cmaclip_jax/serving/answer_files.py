"""Answers as lines of a file: CSV, JSON Lines or Parquet, in parts that are joined.

A line is a pair: `id`; for every task TASK, TASK_probability, TASK_accepted and
TASK_image_weight; and `note`. Where a run has thresholds, the probability is the one that they
are tested against, at the task's temperature. What is not there is empty (CSV) or null. Several
labels of one cell, and what goes with them, are lists; in CSV they are split by '|'.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from cmaclip_jax.data.tables import SEPARATOR
from cmaclip_jax.errors import UserError
from cmaclip_jax.serving.classifier import Answer
from cmaclip_jax.tasks import Task

KINDS = (".csv", ".jsonl", ".parquet")
Line = list[Any]


def answer_schema(tasks: Sequence[Task]) -> pyarrow.Schema:
    """The columns of a file of answers."""
    fields = [("id", pyarrow.string())]
    for task in tasks:
        kinds = (pyarrow.string(), pyarrow.float32(), pyarrow.bool_())
        label, probability, accepted = map(pyarrow.list_, kinds) if task.many else kinds
        fields += [
            (task.name, label),
            (f"{task.name}_probability", probability),
            (f"{task.name}_accepted", accepted),
            (f"{task.name}_image_weight", pyarrow.float32()),
        ]
    schema = pyarrow.schema([*fields, ("note", pyarrow.string())])
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice:
        raise UserError(f"two columns would be called {twice!r}; rename that task and train anew")
    return schema


def answer_line(identity: str, answers: Mapping[str, Answer], note: str) -> Line:
    """The line of a pair."""
    line: Line = [identity]
    for answer in answers.values():
        line += [
            list(answer.label) if isinstance(answer.label, tuple) else answer.label,
            _shortest(answer.probability),
            list(answer.accepted) if isinstance(answer.accepted, tuple) else answer.accepted,
            None if answer.label is None else _shortest(answer.weights["image"]),
        ]
    return [*line, note or None]


def _shortest(value):
    """The shortest number that is the same float32."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return [_shortest(x) for x in value]
    return float(str(np.float32(value)))


def write_part(path: Path, schema: pyarrow.Schema, lines: Sequence[Line]) -> None:
    """Writes lines that `join_parts` can join, of the kind that the path's ending says."""
    if path.suffix == ".parquet":
        columns = zip(*lines, strict=True)
        arrays = [pyarrow.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
        parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), path)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            for line in lines:
                row = dict(zip(schema.names, line, strict=True))
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([_cell(value) for value in line] for line in lines)


def join_parts(parts: Sequence[Path], schema: pyarrow.Schema, output: Path) -> None:
    """Writes the file that the parts are parts of."""
    if output.suffix == ".parquet":
        with parquet.ParquetWriter(output, schema) as writer:
            for part in parts:
                writer.write_table(parquet.read_table(part))
        return
    with output.open("wb") as file:
        if output.suffix == ".csv":
            file.write((",".join(schema.names) + "\n").encode())  # a task's name needs no quotes
        for part in parts:
            file.write(part.read_bytes())


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return SEPARATOR.join(map(_cell, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
