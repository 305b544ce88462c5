"""Reading files from a local disk or from a bucket such as gs://.

Every function raises OSError for a file that cannot be read, wherever the file lies.
TensorFlow reads the buckets. It takes seconds to import, so it is imported for them alone.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from typing import BinaryIO

# A picture inside a table, as `train.parquet#image#17`: the file, the column, and the number of the
# row, counted from 0.
EMBEDDED = re.compile(r"(.+\.(?:parquet|pq|arrow))#(.*)#(\d+)")
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


def open_seekable(path: str) -> BinaryIO:
    """A file that is read in parts, in any order, and stays open."""
    return open(path, "rb") if is_local(path) else io.BufferedReader(_RemoteFile(path))


class _RemoteFile(io.RawIOBase):
    """A file in a bucket, of which only the parts that are wanted are read."""

    def __init__(self, path: str):
        self._path, self._size, self._place = path, file_size(path), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer) -> int:
        length = max(min(len(buffer), self._size - self._place), 0)
        buffer[:length] = read_range(self._path, self._place, length)
        self._place += length
        return length


def file_size(path: str) -> int:
    """The number of bytes in a file."""
    if is_local(path):
        return os.path.getsize(path)
    with _gfile() as gfile:
        return gfile.stat(path).length


def exists(path: str) -> bool:
    """Whether a file exists. True where a bucket does not answer: reading it then says why.

    Of a picture inside a table, it is the table's file that counts.
    """
    path = EMBEDDED.sub(r"\1", path)
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
