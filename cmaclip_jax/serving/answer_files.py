"""Files of answers: CSV, JSON Lines or Parquet, written in parts that are joined.

Each line is a pair. Its columns are `id`; for every task TASK, TASK_probability, TASK_accepted and
TASK_image_weight; and `note`. If the run has thresholds, the probability is at the temperature of
the task. A missing value is empty (CSV) or null. The labels of a many-label task, with their
probabilities and whether they are accepted, are lists; in CSV '|' separates their members.
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
        line += map(_value, (answer.label, answer.probability, answer.accepted))
        line.append(None if answer.label is None else _value(answer.weights["image"]))
    return [*line, note or None]


def _value(value):
    """A tuple as a list, and a number with the fewest digits that give the same float32."""
    if isinstance(value, tuple):
        return list(map(_value, value))
    return float(str(np.float32(value))) if isinstance(value, float) else value


def write_part(path: Path, schema: pyarrow.Schema, lines: Sequence[Line]) -> None:
    """Writes lines for `join_parts`, in the format of the path's ending."""
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
    """Joins parts to the whole file."""
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
