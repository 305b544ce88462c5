"""Reading files from a local disk or from a bucket such as gs://.

Every function raises OSError for a file that cannot be read, wherever the file lies.
TensorFlow reads the buckets. It takes seconds to import, so it is imported for them alone.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

REMOTE_READS = 32  # at the same time: a bucket answers slowly, but answers many at once


def is_local(path: str) -> bool:
    """Whether the operating system itself can open a path."""
    return "://" not in path


@contextlib.contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """A file, opened to read its bytes."""
    if is_local(path):
        with open(path, "rb") as file:
            yield file
        return
    with _gfile() as gfile, gfile.GFile(path, "rb") as file:
        yield file


def read_file(path: str) -> bytes:
    """All bytes of a file."""
    with open_file(path) as file:
        return file.read()


def read_range(path: str, offset: int, length: int) -> bytes:
    """Part of a file. Other threads go on while it is read."""
    if is_local(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            return os.pread(handle, length, offset)
        finally:
            os.close(handle)
    with open_file(path) as file:
        file.seek(offset)
        return file.read(length)


def file_size(path: str) -> int:
    """The number of bytes in a file."""
    if is_local(path):
        return os.path.getsize(path)
    with _gfile() as gfile:
        return gfile.stat(path).length


def exists(path: str) -> bool:
    """Whether a file exists. True where a bucket does not answer: reading it then says why."""
    try:
        if is_local(path):
            return os.path.exists(path)
        with _gfile() as gfile:
            return gfile.exists(path)
    except OSError:
        return True
    except ValueError:  # a name that no file can have
        return False


def why_unreadable(error: Exception) -> str:
    """The reason that an error gives, without the path that it may repeat."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextlib.contextmanager
def _gfile() -> Iterator:
    """TensorFlow's `tf.io.gfile`, with its errors turned into OSError."""
    import tensorflow as tf  # takes seconds, and only buckets need it

    try:
        yield tf.io.gfile
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
