"""Records to the arrays of a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmaclip_jax.data.records import Record
from cmaclip_jax.data.text import Tokenizer
from cmaclip_jax.tasks import UNKNOWN, Task

Batch = dict[str, Any]


class BatchEncoder:
    """Encodes records as the arrays of a batch.

    A batch has image u8 [B,H,W,3], has_image [B], tokens i32 [B,T], has_text [B],
    labels {task: i32 [B], -1 unknown | f32 [B,C], -1 unknown}, weight f32 [B] of the records, 0 =
    padding.
    Batches of records also have had_image [B] and had_text [B]: what there was before noise.

    inputs: what the model reads, 'both', 'image' or 'text'. If it reads no pictures, none is
        opened, and `has_image` says whether the record names one.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        tokenizer: Tokenizer,
        image_size: int,
        text_length: int,
        inputs: str = "both",
    ):
        self.tasks = tuple(tasks)
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.text_length = text_length
        self.inputs = inputs
        self.reads_image, self.reads_text = inputs != "text", inputs != "image"
        self._positions = {task.name: {c: i for i, c in enumerate(task.classes)} for task in tasks}

    def __call__(self, records: Sequence[Record | None], texts: Sequence[str | None]) -> Batch:
        """A batch with a row for every record; None is a row of padding.

        texts: of the records, perhaps changed by augmentation or noise. Pictures and `has_image`
            are left to the caller.
        """
        batch = self._without_pictures(len(records))
        clean = self.tokenizer.clean
        batch["tokens"] = self.tokenizer(texts, self.text_length)
        batch["has_text"][:] = [bool(clean(text)) for text in texts]
        batch["had_image"] = np.zeros(len(records), bool)
        batch["had_text"] = np.array(
            [
                has_text or bool(record and clean(record.text))
                for has_text, record in zip(batch["has_text"], records, strict=True)
            ],
            bool,
        )
        for row, record in enumerate(records):
            if record is None:
                continue
            batch["weight"][row] = record.weight
            for task in self.tasks:
                self._write_label(batch["labels"][task.name], row, task, record.labels[task.name])
        return batch

    def for_tasks(self, tasks: Sequence[Task]) -> "BatchEncoder":
        """An encoder that differs in its tasks alone."""
        return BatchEncoder(tasks, self.tokenizer, self.image_size, self.text_length, self.inputs)

    def empty(self, rows: int) -> Batch:
        """A batch of padding. Models are initialised with its shapes."""
        size = self.image_size
        pictures = np.zeros((rows, size, size, 3), np.uint8)
        return {"image": pictures, **self._without_pictures(rows)}

    def _without_pictures(self, rows: int) -> Batch:
        return {
            "has_image": np.zeros(rows, bool),
            "tokens": np.full((rows, self.text_length), self.tokenizer.end, np.int32),
            "has_text": np.zeros(rows, bool),
            "labels": {
                task.name: np.full((rows, len(task.classes)), UNKNOWN, np.float32)
                if task.many
                else np.full(rows, UNKNOWN, np.int32)
                for task in self.tasks
            },
            "weight": np.zeros(rows, np.float32),
        }

    def _write_label(self, labels: np.ndarray, row: int, task: Task, label: Any) -> None:
        """Writes one label. A class that the run does not have leaves it unknown."""
        positions = self._positions[task.name]
        if label is None:
            return
        if not task.many:
            labels[row] = positions.get(label, UNKNOWN)
        elif all(name in positions for name in label):
            labels[row] = 0.0
            labels[row, [positions[name] for name in label]] = 1.0
