"""The files of an audit's twins: `twins.npz` to go on with, and `twins.csv` to read."""

import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np

from cmaclip_jax.auditing.audited_data import AuditedData
from cmaclip_jax.auditing.twins import EVIDENCE, Twins, conflicts
from cmaclip_jax.files import whole_file, write_text
from cmaclip_jax.studies.framework import csv_text

TWINS = "twins.npz"
COLUMNS = ("id", "split", "twin", "twin_split", "similarity", "evidence", "leak", "conflicts")


def write_twins(path: Path, twins: Twins) -> None:
    """Writes the arrays of twins."""
    arrays = {field.name: getattr(twins, field.name) for field in dataclasses.fields(Twins)}
    with whole_file(path) as part:
        np.savez_compressed(part, **arrays)


def read_twins(path: Path) -> Twins:
    """The twins that `write_twins` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Twins(**arrays)


def write_twins_table(path: Path, twins: Twins, data: AuditedData) -> None:
    """Writes a row for each pair: those across splits first, then those with other labels.

    leak: whether one of the two is in the training split and the other is not.
    conflicts: the tasks whose labels differ, each with both labels.
    """
    differing = defaultdict(list)
    for conflict in conflicts(twins, data.labels):
        one, other = (int(rows[conflict.pair]) for rows in (twins.first, twins.second))
        labels = data.label(one, conflict.task), data.label(other, conflict.task)
        differing[conflict.pair].append(f"{conflict.task}: {labels[0]} / {labels[1]}")
    rows = [_row(number, twins, data, differing[number]) for number in range(len(twins))]
    rows.sort(key=lambda row: (row["leak"] != "true", not row["conflicts"]))
    write_text(path, csv_text(COLUMNS, rows))


def _row(number: int, twins: Twins, data: AuditedData, differing: list[str]) -> dict[str, str]:
    one, other = int(twins.first[number]), int(twins.second[number])
    splits = str(data.splits[one]), str(data.splits[other])
    evidence = zip(EVIDENCE, twins.evidence[number], strict=True)
    cells = (
        data.ids[one],
        splits[0],
        data.ids[other],
        splits[1],
        f"{twins.similarity[number]:.4f}",
        "|".join(
            name for name, holds in zip(EVIDENCE, twins.evidence[number], strict=True) if holds
        ),
        str(splits[0] != splits[1] and "train" in splits).lower(),
        "; ".join(differing),
    )
    return dict(zip(COLUMNS, cells, strict=True))
