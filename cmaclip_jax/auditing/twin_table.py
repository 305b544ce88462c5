"""The file twins.csv: a line for each pair of twins, the most similar first."""

import collections
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cmaclip_jax.auditing.twins import EVIDENCE, Conflict, Twins, conflicts
from cmaclip_jax.data.records import Label
from cmaclip_jax.data.tables import SEPARATOR
from cmaclip_jax.files import write_text

COLUMNS = ("id", "split", "twin", "twin_split", "similarity", "evidence", "leak", "conflicts")


def write_twin_table(
    path: str | Path,
    twins: Twins,
    ids: Sequence[str],
    splits: Sequence[str] | np.ndarray,
    labels: Mapping[str, Sequence[Label]],
) -> None:
    """Writes the pairs.

    ids, splits: of every row. labels: {task: the label of every row}.

    evidence: the names of EVIDENCE that speak for the pair, joined by +. leak: true where one row
    is in train and the other is not. conflicts: 'task: label / label of the twin', joined by ;.
    """
    by_pair = collections.defaultdict(list)
    for conflict in conflicts(twins, labels):
        by_pair[conflict.pair].append(_words(conflict))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in np.argsort(-twins.similarity, kind="stable").tolist():
        first, second = int(twins.first[pair]), int(twins.second[pair])
        reasons = [name for name, has in zip(EVIDENCE, twins.evidence[pair], strict=True) if has]
        leak = (splits[first] == "train") != (splits[second] == "train")
        writer.writerow(
            [ids[first], splits[first], ids[second], splits[second]]
            + [f"{twins.similarity[pair]:.3f}", "+".join(reasons), "true" if leak else "false"]
            + ["; ".join(by_pair[pair])]
        )
    write_text(path, file.getvalue())


def _words(conflict: Conflict) -> str:
    return f"{conflict.task}: {_text(conflict.first)} / {_text(conflict.second)}"


def _text(label: Label) -> str:
    return SEPARATOR.join(label) if isinstance(label, tuple) else str(label)
