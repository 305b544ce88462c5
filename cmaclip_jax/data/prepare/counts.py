"""Counts of the records in a shard, stored as JSON, and their sums over shards."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from cmaclip_jax.data.records import Record
from cmaclip_jax.tasks import Task


@dataclasses.dataclass
class RecordCounts:
    """The number of records, and of their bytes, labels and words.

    file_bytes: the size of their files. words: {number of words: number of texts of that length}.
    labels: {task: {class: records}}. unknown: {task: records without a label}.
    entries: the faults and notes of the records, as `deferred_faults.Entry`.
    """

    records: int = 0
    bytes: int = 0
    file_bytes: int = 0
    without_image: int = 0
    without_text: int = 0
    words: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    labels: dict[str, collections.Counter] = dataclasses.field(default_factory=dict)
    unknown: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    entries: list = dataclasses.field(default_factory=list)

    def add(self, record: Record, size: int, tasks: Sequence[Task]) -> None:
        """Counts a record that takes `size` bytes."""
        self.records += 1
        self.bytes += size
        self.without_image += record.image is None
        self.without_text += not record.text
        if record.text:
            self.words[len(record.text.split())] += 1
        for task in tasks:
            label = record.labels.get(task.name)
            if label is None:
                self.unknown[task.name] += 1
            names = (label,) if isinstance(label, str) else label or ()
            self.labels.setdefault(task.name, collections.Counter()).update(names)

    def join(self, other: RecordCounts) -> None:
        """Adds the counts of other records."""
        for name in ("records", "bytes", "file_bytes", "without_image", "without_text"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.words.update(other.words)
        self.unknown.update(other.unknown)
        self.entries += other.entries
        for task, classes in other.labels.items():
            self.labels.setdefault(task, collections.Counter()).update(classes)

    def words_at(self, share: float) -> int:
        """The number of words that this share of the texts does not exceed."""
        left = share * self.words.total()
        for words in sorted(self.words):
            left -= self.words[words]
            if left <= 1e-9:
                return words
        return 0

    def to_json(self) -> dict:
        """The counts as JSON values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, values: dict) -> RecordCounts:
        """The counts that `to_json` wrote."""
        values = dict(values)
        values["words"] = collections.Counter({int(n): c for n, c in values["words"].items()})
        values["unknown"] = collections.Counter(values["unknown"])
        values["labels"] = {t: collections.Counter(c) for t, c in values["labels"].items()}
        return cls(**values)
