"""Files of records, ArrayRecord or TFRecord: written in order, read by random access."""

import contextlib
import io
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cmaclip_jax.data.storage import file_size, is_local, open_file, read_range
from cmaclip_jax.errors import UserError

FORMATS = ("array_record", "tfrecord")
HEADER = struct.Struct("<Q4x")  # of a TFRecord: its length, and the checksum of the length
FOOTER = 4  # bytes of the checksum after a record
KEPT_OPEN = 256


@contextlib.contextmanager
def open_writer(path: str, file_format: str) -> Iterator[Callable[[bytes], None]]:
    """Opens a new file, and yields the function that adds a serialized example to it."""
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


def open_records(instructions: Sequence, file_format: str) -> Sequence[bytes]:
    """The serialized examples of TFDS's file instructions, in order.

    An instruction names a file, the number of records to skip and the number to take.
    """
    instructions = [item for item in instructions if item.take]
    if file_format == "tfrecord":
        return TFRecordFiles(instructions)
    if file_format != "array_record":
        raise UserError(
            f"files of the format {file_format!r} have no random access here; convert them with "
            "`tfds convert_format --out_file_format=array_record`"
        )
    if not instructions:
        return ()
    # array_record is not available on every system.
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    return ArrayRecordDataSource(instructions)


class TFRecordFiles(Sequence[bytes]):
    """Records of TFRecord files. They have no index: each file is indexed when it is first read.

    Several threads may read. The first `KEPT_OPEN` files that are read stay open. Other files are
    opened for every read, so that many shards do not exhaust the file handles.
    """

    def __init__(self, instructions: Sequence):
        self._instructions = instructions
        self._ends = np.cumsum([item.take for item in instructions], dtype=np.int64)
        self._frames: dict[str, np.ndarray] = {}
        self._kept: dict[str, io.FileIO] = {}
        self._locks = {item.filename: threading.Lock() for item in instructions}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = int(np.searchsorted(self._ends, index, side="right"))
        instruction = self._instructions[file]
        row = index - int(self._ends[file]) + instruction.take + instruction.skip
        offset, length = self._index(instruction)[row]
        return self._read(os.fspath(instruction.filename), int(offset), int(length))

    def _read(self, path: str, offset: int, length: int) -> bytes:
        file = self._kept.get(path)
        if file is None and is_local(path) and len(self._kept) < KEPT_OPEN:
            file = self._kept.setdefault(path, io.FileIO(path))
        if file is None:
            return read_range(path, offset, length)
        return os.pread(file.fileno(), length, offset)

    def _index(self, instruction) -> np.ndarray:
        name = instruction.filename
        if name in self._frames:
            return self._frames[name]
        with self._locks[name]:
            if name not in self._frames:
                frames = find_frames(os.fspath(name))
                if len(frames) != instruction.examples_in_shard:
                    raise UserError(
                        f"{name} has {len(frames)} records and dataset_info.json says "
                        f"{instruction.examples_in_shard}; build the data set anew"
                    )
                self._frames[name] = frames
            return self._frames[name]


def find_frames(path: str) -> np.ndarray:
    """The offset and length of each record in a TFRecord file: int64 [records,2]."""
    frames, position = [], 0
    with open_file(path) as file:
        size = file_size(path)
        while position < size:
            file.seek(position)
            header = file.read(HEADER.size)
            length = HEADER.unpack(header)[0] if len(header) == HEADER.size else size
            start = position + HEADER.size
            position = start + length + FOOTER
            if position > size:
                raise UserError(f"{path} is no whole TFRecord file; build the data set anew")
            frames.append((start, length))
    return np.array(frames, np.int64).reshape(-1, 2)
