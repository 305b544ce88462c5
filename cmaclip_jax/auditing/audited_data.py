"""The data of an audit: all records of all splits, with their twins."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.folds import all_records, split_names
from cmaclip_jax.data.gathered import Gathered
from cmaclip_jax.data.images import UnreadablePicture, open_image
from cmaclip_jax.data.records import Label, RecordError
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.report.explanation import PairView
from cmaclip_jax.tasks import Task, select_tasks

SHOWN_SIDE = 160  # pixels of a picture on the page


@dataclasses.dataclass(frozen=True, eq=False)
class AuditedData:
    """All records of the data, counted through all splits.

    splits: the name of each record's split.
    separator: joins the labels of a many-label task.
    """

    records: Gathered
    splits: np.ndarray
    tasks: tuple[Task, ...]
    separator: str

    def __len__(self) -> int:
        return len(self.records)

    @functools.cached_property
    def ids(self) -> list[str]:
        return [self._id(row) for row in range(len(self))]

    @functools.cached_property
    def labels(self) -> Mapping[str, Sequence[Label]]:
        """The label of every record, by task."""
        return {task.name: self.records.labels(task.name) for task in self.tasks}

    def label(self, row: int, task: str) -> str:
        """The label of a record as its cell holds it; '' if it is unknown."""
        label = self.labels[task][row]
        return self.separator.join(label) if isinstance(label, tuple) else label or ""

    def show(self, row: int) -> PairView:
        """A record as a page shows it."""
        try:
            record = self.records[row]
            if record.image is None:
                return PairView(record.id, None, record.text, "no picture")
            image = open_image(record.image).convert("RGB")
        except UnreadablePicture as error:
            return PairView(record.id, None, record.text, error.reason)
        except RecordError as error:
            return PairView(f"number {row}", None, None, str(error))
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        return PairView(record.id, np.asarray(image), record.text)

    def _id(self, row: int) -> str:
        try:
            return self.records[row].id
        except RecordError:
            return f"number {row}"


def open_audited(config: ConfigDict, workdir: Path) -> AuditedData:
    """Opens all records of a config's data. The folder of the audit lists what cannot be used."""
    fields = config.data
    bad = BadRecords(workdir / "bad_records.jsonl", fields.on_error, fields.max_bad)
    sources = {split: source for split, source in open_sources(fields, bad).items() if len(source)}
    records = all_records(sources)
    tasks = select_tasks(records.tasks, fields.labels)
    return AuditedData(records, split_names(sources), tasks, fields.separator)
