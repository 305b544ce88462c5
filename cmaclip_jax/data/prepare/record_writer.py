"""Writing serialized examples to a file of records."""

import contextlib
from collections.abc import Callable, Iterator

FORMATS = ("array_record", "tfrecord")


@contextlib.contextmanager
def open_writer(path: str, file_format: str) -> Iterator[Callable[[bytes], None]]:
    """Opens a new file, and yields the function that adds a record to it."""
    if file_format == "array_record":
        from array_record.python.array_record_module import ArrayRecordWriter  # not on every system

        # Groups of one record allow random access.
        writer = ArrayRecordWriter(path, "group_size:1")
    else:
        import tensorflow as tf  # takes seconds, and only TFRecord files need it

        writer = tf.io.TFRecordWriter(path)
    try:
        yield writer.write
    finally:
        writer.close()
