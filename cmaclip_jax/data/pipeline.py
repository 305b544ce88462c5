"""Records to batches, by tf.data.

Which examples a step sees is a pure function of (seed, step): the order of an epoch is a
permutation drawn from (seed, epoch), step s takes positions s*B .. s*B+B of the endless
row of epochs, and every host takes its own slice of them. So a run can start at any step
without replaying what came before, and sees the same examples on any number of hosts.
"""

import atexit
import functools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from cmaclip_jax.data.records import Record, Source
from cmaclip_jax.data.text import Tokenizer
from cmaclip_jax.tasks import UNKNOWN, Task

Batch = dict[str, Any]

tf.config.set_visible_devices([], "GPU")  # the accelerator belongs to JAX


def train_batches(
    source: Source,
    encode: "Encoder",
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """Endless batches for steps start, start+1, ...: this host's `batch_size / hosts` rows."""
    rows = batch_size // hosts

    def load(step: int) -> Batch:
        first = step * batch_size + host * rows
        indices = example_indices(first, rows, len(source), seed)
        return encode([source[i] for i in indices], rows)

    return _stream(load, encode.signature(rows), start, None)


def eval_batches(
    source: Source, encode: "Encoder", *, batch_size: int, host: int = 0, hosts: int = 1
) -> Iterator[Batch]:
    """Every record once, in order; the last batch is padded with rows of weight 0.

    Every host gets equally many batches, so that none waits for another.
    """
    rows = batch_size // hosts
    steps = -(-len(source) // batch_size)

    def load(step: int) -> Batch:
        first = step * batch_size + host * rows
        last = min(first + rows, len(source))
        return encode([source[i] for i in range(first, last)], rows)

    return _stream(load, encode.signature(rows), 0, steps)


def example_indices(first: int, count: int, size: int, seed: int) -> list[int]:
    """Which records stand at positions first .. first+count of the endless row of epochs."""
    places = (divmod(position, size) for position in range(first, first + count))
    return [int(epoch_order(seed, epoch, size)[offset]) for epoch, offset in places]


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The permutation that epoch number `epoch` goes through."""
    return np.random.default_rng((seed, epoch)).permutation(size)


class Encoder:
    """Turns a list of records into one padded batch of arrays.

    Batch: image u8 [B,H,W,3], has_image [B], tokens i32 [B,T], has_text [B],
    labels {task: i32 [B], -1 unknown | f32 [B,C], -1 unknown}, weight f32 [B], 0 = padding.
    """

    def __init__(
        self, tasks: Sequence[Task], tokenizer: Tokenizer, image_size: int, text_length: int
    ):
        self.tasks = tuple(tasks)
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.text_length = text_length
        self._positions = {task.name: {c: i for i, c in enumerate(task.classes)} for task in tasks}

    def __call__(self, records: Sequence[Record], rows: int) -> Batch:
        """`records` in the first rows, rows of nothing with weight 0 after them."""
        batch = self.empty(rows)
        for row, record in enumerate(records):
            batch["weight"][row] = 1.0
            if record.image is not None:
                batch["image"][row] = record.image
                batch["has_image"][row] = True
            batch["has_text"][row] = bool(record.text)
            for task in self.tasks:
                self._write_label(batch["labels"][task.name], row, task, record.labels[task.name])
        texts = [record.text for record in records] + [None] * (rows - len(records))
        batch["tokens"] = self.tokenizer(texts, self.text_length)
        return batch

    def empty(self, rows: int) -> Batch:
        """A batch of nothing but padding; also the shapes to initialise a model with."""
        size = self.image_size
        return {
            "image": np.zeros((rows, size, size, 3), np.uint8),
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

    def signature(self, rows: int):
        """What tf.data must know of a batch before it sees one."""
        return tf.nest.map_structure(
            lambda x: tf.TensorSpec(x.shape, tf.as_dtype(x.dtype)), self.empty(rows)
        )

    def _write_label(self, labels: np.ndarray, row: int, task: Task, label) -> None:
        if label is None:
            return
        positions = self._positions[task.name]
        if task.many:
            labels[row] = 0.0
            for name in label:
                labels[row, positions[name]] = 1.0
        else:
            labels[row] = positions[label]


def _stream(load, signature, start: int, stop: int | None) -> Iterator[Batch]:
    """`load(step)` for start <= step < stop, made ahead of time, in order, as numpy.

    A batch is made by Python in one call, so there is one call a batch to pay for; two of
    them may be in the making at once.
    """
    flat_signature = tf.nest.flatten(signature)

    def load_flat(step):
        return tf.nest.flatten(load(int(step)))

    def load_in_graph(step):
        arrays = tf.numpy_function(load_flat, [step], [spec.dtype for spec in flat_signature])
        for array, spec in zip(arrays, flat_signature, strict=True):
            array.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(signature, arrays)

    steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max if stop is None else stop)
    dataset = steps.map(load_in_graph, num_parallel_calls=2, deterministic=True).prefetch(4)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 2
    batches = _closed_at_exit(dataset.with_options(options))
    _open_streams.add(batches)
    return batches


_open_streams: weakref.WeakSet = weakref.WeakSet()


def _closed_at_exit(dataset: tf.data.Dataset) -> Iterator[Batch]:
    yield from dataset.as_numpy_iterator()


@atexit.register
def _close_streams() -> None:
    """Ends what still makes batches: its threads and a dying interpreter wait for each other."""
    for batches in list(_open_streams):
        batches.close()
