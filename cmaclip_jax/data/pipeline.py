"""Records to batches, by tf.data.

A run can start at any step without repeating the steps before it: order.py computes the records
of a step. Every host makes its own rows of each batch.
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

AHEAD = 4  # finished batches that wait to be used
WORKERS = min(os.cpu_count() or 1, 32)  # batches made at once; Python's lock allows no more


def train_batches(
    load: Loader,
    order: Order,
    *,
    batch_size: int,
    start: int = 0,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Endless batches for steps start, start+1, ...

    rows: the rows of each batch that this host makes; None: all.
    """
    rows = np.arange(batch_size) if rows is None else rows

    def load_step(step: int, defer: bool):
        positions = step * batch_size + rows
        random = np.random.default_rng((load.view.seed, batch_size, step))
        draws = random.random((batch_size, DRAWS))[rows]
        return load(order.indices(positions), positions.tolist(), draws, defer)

    return _stream(load, load_step, len(rows), start, None)


def eval_batches(
    load: Loader, *, batch_size: int, rows: np.ndarray | None = None
) -> Iterator[Batch]:
    """Every record once, in order. Rows of weight 0 pad the last batch.

    rows: the rows of each batch that this host makes; None: all. Every host gets the same number
        of batches, so that no host waits for another.
    """
    rows = np.arange(batch_size) if rows is None else rows
    size = len(load.source)

    def load_step(step: int, defer: bool):
        positions = step * batch_size + rows
        positions = positions[positions < size].tolist()
        return load(positions, positions, np.zeros((len(rows), DRAWS)), defer)

    return _stream(load, load_step, len(rows), 0, -(-size // batch_size))


def _stream(
    load: Loader, load_step: Callable, rows: int, start: int, stop: int | None
) -> Iterator[Batch]:
    """The batches of steps start .. stop as numpy arrays, in order, made ahead of their use.

    Python reads a batch in one call. Then tf.data decodes its JPEGs.
    """
    failures: dict[int, Exception] = {}

    def dataset(first: int, last: int | None, defer: bool) -> tf.data.Dataset:
        def in_python(step):
            try:
                return load_step(int(step), defer)
            except Exception as error:
                failures[int(step)] = error  # tf.data passes on the text of an error only
                raise

        @tf.autograph.experimental.do_not_convert  # it has no Python control flow
        def in_graph(step):
            return _finish(load, *_call(in_python, _signature(load, rows), step))

        steps = tf.data.Dataset.range(first, np.iinfo(np.int64).max if last is None else last)
        options = tf.data.Options()
        # The numbers of workers and of batches ahead are fixed, so there is nothing to tune. With
        # the tuner, closing a stream sometimes waits for seconds until the tuner's thread wakes up.
        options.autotune.enabled = False
        options.threading.private_threadpool_size = WORKERS
        options.threading.max_intra_op_parallelism = 1
        made = steps.map(in_graph, num_parallel_calls=WORKERS, deterministic=True)
        return made.prefetch(AHEAD).with_options(options)

    batches = _batches(dataset, failures, start, stop)
    _open_streams.add(batches)
    return batches


def _batches(dataset: Callable, failures, start: int, stop: int | None) -> Iterator[Batch]:
    """The dataset's batches. One that TensorFlow refused is made again, its JPEGs one by one."""
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
        del stream  # a traceback that is kept would keep its threads


def _attempt(stream) -> tuple[Batch | None, Exception | None]:
    """The next batch, or None at the end or after an error; and that error.

    The error is returned without its traceback, which would keep the stream alive. A stream that
    is alive when the interpreter ends never stops.
    """
    try:
        return next(stream, None), None
    except tf.errors.OpError as error:
        error.__context__ = None
        return None, error.with_traceback(None)


def _signature(load: Loader, rows: int):
    """Shapes and types of what `load` returns, which tf.data must know beforehand."""
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
    """The result of a Python function as tensors of a signature."""
    flat = tf.nest.flatten(signature)
    tensors = tf.numpy_function(
        lambda *values: tf.nest.flatten(function(*values)), arguments, [spec.dtype for spec in flat]
    )
    for tensor, spec in zip(tensors, flat, strict=True):
        tensor.set_shape(spec.shape)
    return tf.nest.pack_sequence_as(signature, tensors)


def _finish(load: Loader, batch: Batch, positions, pictures, finished) -> Batch:
    """Adds the pictures to a batch: decodes the JPEGs, then applies augmentation and noise."""
    view, image = load.view, decode_all(pictures, finished, load.encode.image_size)
    if view.changes_pixels and load.encode.reads_image:
        like = tf.TensorSpec(image.shape, image.dtype)
        image = _call(view.change_pictures, like, image, batch["has_image"], positions)
    return batch | {"image": image}


_open_streams: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _close_streams() -> None:
    """Stops all streams. At exit, the interpreter and their threads would wait for each other."""
    for batches in list(_open_streams):
        batches.close()
