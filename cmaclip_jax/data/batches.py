"""Records to the arrays of a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmaclip_jax.data.records import Label, Record
from cmaclip_jax.data.text import Tokenizer
from cmaclip_jax.tasks import UNKNOWN, Task

Batch = dict[str, Any]


class BatchEncoder:
    """The arrays of a batch.

    Batch: image u8 [B,H,W,3], has_image [B], tokens i32 [B,T], has_text [B],
    labels {task: i32 [B], -1 unknown | f32 [B,C], -1 unknown}, weight f32 [B], 0 = padding.
    Batches of records also say what the records have without noise: had_image [B], had_text [B].

    inputs: what the model reads, 'both', 'image' or 'text'. Pictures that it does not read are
        never opened, and `has_image` says whether the record names one.
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
        """A row for every record, with words as in `texts`; a None is a row of weight 0.

        Everything but the pictures, and who has one; whoever decodes them adds that.
        """
        batch = self._without_pictures(len(records))
        clean = self.tokenizer.clean
        batch["tokens"] = self.tokenizer(texts, self.text_length)
        batch["has_text"][:] = [bool(clean(text)) for text in texts]
        batch["had_image"] = np.zeros(len(records), bool)
        batch["had_text"] = np.array(
            [
                there or bool(record and clean(record.text))
                for there, record in zip(batch["has_text"], records, strict=True)
            ],
            bool,
        )
        for row, record in enumerate(records):
            if record is None:
                continue
            batch["weight"][row] = 1.0
            for task in self.tasks:
                self._write_label(batch["labels"][task.name], row, task, record.labels[task.name])
        return batch

    def for_tasks(self, tasks: Sequence[Task]) -> "BatchEncoder":
        """The same pictures and words with labels of these tasks."""
        return BatchEncoder(tasks, self.tokenizer, self.image_size, self.text_length, self.inputs)

    def empty(self, rows: int) -> Batch:
        """A batch of nothing but padding; also the shapes to initialise a model with."""
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

    def _write_label(self, labels: np.ndarray, row: int, task: Task, label: Label) -> None:
        """A class that the run does not know leaves the label unknown."""
        positions = self._positions[task.name]
        if label is None:
            return
        if not task.many:
            labels[row] = positions.get(label, UNKNOWN)
        elif all(name in positions for name in label):
            labels[row] = 0.0
            labels[row, [positions[name] for name in label]] = 1.0
