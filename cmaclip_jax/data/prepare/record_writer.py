"""Serialized examples into a file, made by many threads and written in order."""

import collections
import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

FORMATS = ("array_record", "tfrecord")
AHEAD = 4  # items under way for every thread

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextlib.contextmanager
def open_writer(path: str, file_format: str) -> Iterator[Callable[[bytes], None]]:
    """A new file; what is yielded adds a record to it."""
    if file_format == "array_record":
        from array_record.python.array_record_module import ArrayRecordWriter

        # Every record by itself, for random access.
        writer = ArrayRecordWriter(path, "group_size:1")
    else:
        import tensorflow as tf

        writer = tf.io.TFRecordWriter(path)
    try:
        yield writer.write
    finally:
        writer.close()


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The function of each item, in their order, a thread for every processor working ahead."""
    threads = os.cpu_count() or 1
    items = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = collections.deque()
        try:
            for item in itertools.islice(items, AHEAD * threads):
                waiting.append(pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
                for item in itertools.islice(items, 1):
                    waiting.append(pool.submit(function, item))
        finally:
            for future in waiting:
                future.cancel()
