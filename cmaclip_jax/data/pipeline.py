"""Records to batches, by tf.data.

A run can start at any step without replaying what came before (order.py says which records
a step sees); every host takes its own rows of each step.
"""

import atexit
import itertools
import os
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from cmaclip_jax.data.batches import Batch
from cmaclip_jax.data.jpeg import decode_all
from cmaclip_jax.data.loading import DRAWS, Loader
from cmaclip_jax.data.order import Order

tf.config.set_visible_devices([], "GPU")  # the accelerator belongs to JAX

AHEAD = 4  # finished batches that wait
WORKERS = min(os.cpu_count() or 1, 32)  # batches in the making; Python's lock feeds no more


def train_batches(
    load: Loader,
    order: Order,
    *,
    batch_size: int,
    start: int = 0,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Endless batches for steps start, start+1, ...: of each these `rows`, or all of it."""
    rows = np.arange(batch_size) if rows is None else rows

    def load_step(step: int, trust: bool):
        positions = step * batch_size + rows
        random = np.random.default_rng((load.view.seed, batch_size, step))
        draws = random.random((batch_size, DRAWS))[rows]
        return load(order.indices(positions), positions.tolist(), draws, trust)

    return _stream(load, load_step, len(rows), start, None)


def eval_batches(
    load: Loader, *, batch_size: int, rows: np.ndarray | None = None
) -> Iterator[Batch]:
    """Every record once, in order; the last batch is padded with rows of weight 0.

    rows: which of each batch, for one host of several; each gets equally many batches, so that
        none waits for another.
    """
    rows = np.arange(batch_size) if rows is None else rows
    size = len(load.source)

    def load_step(step: int, trust: bool):
        positions = step * batch_size + rows
        positions = positions[positions < size].tolist()
        return load(positions, positions, np.zeros((len(rows), DRAWS)), trust)

    return _stream(load, load_step, len(rows), 0, -(-size // batch_size))


def _stream(
    load: Loader, load_step: Callable, rows: int, start: int, stop: int | None
) -> Iterator[Batch]:
    """The batches of steps start .. stop, made ahead of time, in order, as numpy.

    A batch is read by Python in one call; its JPEGs are decoded by tf.data.
    """
    failures: dict[int, Exception] = {}

    def dataset(first: int, last: int | None, trust: bool) -> tf.data.Dataset:
        def in_python(step):
            try:
                return load_step(int(step), trust)
            except Exception as error:
                failures[int(step)] = error  # tf.data would pass on no more than its text
                raise

        @tf.autograph.experimental.do_not_convert  # there is nothing in it to convert
        def in_graph(step):
            return _finish(load, *_call(in_python, _signature(load, rows), step))

        steps = tf.data.Dataset.range(first, np.iinfo(np.int64).max if last is None else last)
        options = tf.data.Options()
        options.threading.private_threadpool_size = WORKERS
        options.threading.max_intra_op_parallelism = 1
        made = steps.map(in_graph, num_parallel_calls=WORKERS, deterministic=True)
        return made.prefetch(AHEAD).with_options(options)

    batches = _batches(dataset, failures, start, stop)
    _open_streams.add(batches)
    return batches


def _batches(dataset: Callable, failures, start: int, stop: int | None) -> Iterator[Batch]:
    """What the dataset yields; a batch that TensorFlow refused is made once more with care."""
    stream = dataset(start, stop, True).as_numpy_iterator()
    try:
        for step in itertools.count(start):
            batch, fault = _attempt(stream)
            if fault and step not in failures:
                batch, fault = _attempt(dataset(step, step + 1, False).as_numpy_iterator())
            if fault:
                raise failures.get(step, fault)
            if batch is None:
                return
            yield batch
    finally:
        del stream  # or whoever keeps a traceback keeps its threads


def _attempt(stream) -> tuple[Batch | None, Exception | None]:
    """The next batch, or None at the end; and why there is none.

    The error comes without the frames that it passed: those would keep the stream, and a
    stream that outlives the interpreter never ends.
    """
    try:
        return next(stream, None), None
    except tf.errors.OpError as error:
        error.__context__ = None
        return None, error.with_traceback(None)


def _signature(load: Loader, rows: int):
    """What tf.data must know of what Python hands it, before it sees any of it."""
    size = load.encode.image_size
    batch = tf.nest.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype), load.encode([None] * rows, [None] * rows)
    )
    pictures = {
        "content": tf.TensorSpec([rows], tf.string),
        "mirrored": tf.TensorSpec([rows], tf.bool),
        "number": tf.TensorSpec([rows], tf.int32),
        "place": tf.TensorSpec([rows], tf.int32),
        "window": tf.TensorSpec([rows, 4], tf.int32),
    }
    finished = tf.TensorSpec([None, size, size, 3], tf.uint8)
    return batch, tf.TensorSpec([rows], tf.int64), pictures, finished


def _call(function: Callable, signature, *arguments):
    """What a Python function returns, as tensors of this signature."""
    flat = tf.nest.flatten(signature)
    tensors = tf.numpy_function(
        lambda *values: tf.nest.flatten(function(*values)), arguments, [spec.dtype for spec in flat]
    )
    for tensor, spec in zip(tensors, flat, strict=True):
        tensor.set_shape(spec.shape)
    return tf.nest.pack_sequence_as(signature, tensors)


def _finish(load: Loader, batch: Batch, positions, pictures, finished) -> Batch:
    """Decodes what waits, and does what is done to finished pictures."""
    view, image = load.view, decode_all(pictures, finished, load.encode.image_size)
    if view.alters and load.encode.reads_image:
        like = tf.TensorSpec(image.shape, image.dtype)
        image = _call(view.alter_all, like, image, batch["has_image"], positions)
    return batch | {"image": image}


_open_streams: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _close_streams() -> None:
    """Ends what still makes batches: its threads and a dying interpreter wait for each other."""
    for batches in list(_open_streams):
        batches.close()
