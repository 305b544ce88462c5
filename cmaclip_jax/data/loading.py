"""One batch of records, read and looked at: what may go wrong with a record goes wrong here."""

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from cmaclip_jax.data.augment import Augment
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.batches import Batch, BatchEncoder
from cmaclip_jax.data.images import (
    MissingPicture,
    UnreadablePicture,
    clip_image,
    open_image,
    read_picture,
    window_image,
)
from cmaclip_jax.data.jpeg import decode, decoder_number, plain_size
from cmaclip_jax.data.noise import Noise, corrupt_image, corrupt_text, swap_index
from cmaclip_jax.data.records import Record, RecordError, Source
from cmaclip_jax.data.storage import REMOTE_READS

DRAWS = 5  # uniform numbers a position: four for the window, one for the mirror
# Random streams of one position, each independent of the others.
STRIKES, TEXT, PICTURE, COLOUR = range(4)
NO_AUGMENT, NO_NOISE = Augment(), Noise()


@dataclasses.dataclass(frozen=True)
class View:
    """How records are looked at. Randomness is a function of `seed` and a record's position."""

    augment: Augment = NO_AUGMENT
    noise: Noise = NO_NOISE
    seed: int = 0

    @property
    def crops(self) -> bool:
        return self.augment.crop < 1

    @property
    def alters(self) -> bool:
        """Whether finished pictures are changed once more."""
        return self.augment.alters_colour or self.noise.image not in ("", "swap")

    def random(self, stream: int, position: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream, position))

    def is_struck(self, position: int) -> bool:
        """Whether the noise falls on what stands there: on its picture and its words alike."""
        return self.noise.strikes(self.random(STRIKES, position))

    def alter_all(self, pictures: np.ndarray, there, positions) -> np.ndarray:
        """Finished pictures [B,S,S,3] changed once more, where there is one."""
        rows = zip(pictures, there, positions, strict=True)
        return np.stack([self.alter(p, int(at)) if has else p for p, has, at in rows])

    def alter(self, picture: np.ndarray, position: int) -> np.ndarray:
        """A picture with its colours changed, and with noise where it is struck."""
        if self.augment.alters_colour:
            picture = self.augment.colour(picture, self.random(COLOUR, position))
        if self.noise.image not in ("", "swap") and self.is_struck(position):
            random = self.random(PICTURE, position)
            picture = corrupt_image(picture, self.noise.image, self.noise.severity, random)
        return picture


@dataclasses.dataclass
class Row:
    """A record on its way into a batch; `record` None is a row of padding.

    picture: what `record.image` says, then the bytes, then a PIL image or the finished
        array; bytes that stay bytes are a plain JPEG of `size`.
    swapped: whether noise shows another record's picture in place of its own.
    """

    record: Record | None = None
    index: int = -1
    position: int = -1
    lost: bool = False
    text: str | None = None
    picture: Any = None
    size: tuple[int, int] = (1, 1)
    swapped: bool = False


class Loader:
    """Reads records of a source into batches, under the ledger's policy for bad ones.

    limited: whether too large a share of lost records is an error, as in training. Judging goes
        on without them.
    seconds: of one core, by what they were spent on.
    """

    def __init__(
        self,
        source: Source,
        split: str,
        encode: BatchEncoder,
        bad: BadRecords,
        view: View | None = None,
        limited: bool = True,
    ):
        self.source, self.split, self.encode, self.bad = source, split, encode, bad
        self.view, self.limited = view or View(), limited
        self._no_picture = np.zeros((encode.image_size, encode.image_size, 3), np.uint8)
        self.seconds: collections.Counter = collections.Counter()
        self._pool = ThreadPoolExecutor(REMOTE_READS)  # starts no thread before it is used

    def __call__(
        self,
        indices: Sequence[int],
        positions: Sequence[int],
        draws: np.ndarray,
        trust: bool = True,
    ) -> tuple[Batch, np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """A batch of `len(draws)` rows without pictures, and what makes its pictures.

        Args:
          indices: of the records; fewer than rows leave padding at the end.
          positions: where each stands in the order of the run; randomness depends on it.
          draws: uniform numbers [rows,DRAWS], each a function of its row's position.
          trust: whether plain JPEGs are left to tf.data; if not, they are decoded here,
            one by one, so that one which cannot be does not take the others with it.

        Returns the batch, the positions of its rows, what `decode_all` needs of every row,
        and the pictures that are finished, u8 [F,S,S,3]; the first of them is no picture.
        """
        with self._timed("read"):
            rows = [self._read(*pair) for pair in zip(indices, positions, strict=True)]
            self._fetch(rows)
        with self._timed("open and decode"):
            for row in rows:
                self._guarded(row, self._look)
        rows += [Row()] * (len(draws) - len(rows))
        with self._timed("crop"):
            windows = self.view.augment.windows(np.array([row.size for row in rows]), draws[:, :4])
            numbers = decoder_number(windows, self.encode.image_size)
            for row, window, number in zip(rows, windows, numbers, strict=True):
                self._guarded(row, functools.partial(self._cut, window, number, trust))
        with self._timed("tokens and labels"):
            batch = self.encode([row.record for row in rows], [row.text for row in rows])
        with self._timed("gather"):
            batch["has_image"][:] = list(map(self._has_image, rows))
            batch["had_image"][:] = [row.swapped or self._has_image(row) for row in rows]
            contents, places, finished = self._gather(rows)
        if self.limited:
            lost = [row.index for row in rows if row.lost]
            self.bad.saw(self.split, indices, lost, len(self.source))
        pictures = {
            "content": contents,
            "mirrored": (draws[:, 4] < 0.5) & self.view.augment.flip,
            "number": numbers,
            "place": places,
            "window": windows,
        }
        return batch, np.array([row.position for row in rows]), pictures, finished

    def _read(self, index: int, position: int) -> Row:
        """A record with the words and the picture that it is to be shown with."""
        try:
            record = self.source[index]
            if record.image is not None or record.text:
                return self._shown(record, index, position)
            self.bad.fault(self.split, record.id, "neither picture nor words")
        except RecordError as error:
            reason, _, detail = str(error).partition(": ")
            self.bad.fault(self.split, f"number {index}", reason, detail)
        return Row(index=index, lost=True)

    def _shown(self, record: Record, index: int, position: int) -> Row:
        """The record with its words, or another's, as augmentation and noise want them."""
        text, view = record.text, self.view
        picture = record.image if self.encode.reads_image else None
        swapped = view.noise.image == "swap" and picture is not None and view.is_struck(position)
        if swapped:
            picture = self._other(index, position, PICTURE).image
        if text and view.augment.word_drop:
            text = view.augment.drop_words(text, view.random(TEXT, position))
        if text and view.noise.text and view.is_struck(position):
            if view.noise.text == "swap":
                text = self._other(index, position, TEXT).text
            else:
                random = view.random(TEXT, position)
                text = corrupt_text(text, view.noise.text, view.noise.severity, random)
        return Row(record, index, position, text=text, picture=picture, swapped=swapped)

    def _other(self, index: int, position: int, stream: int) -> Record:
        """The record whose picture or words are shown in place of those at `index`."""
        random = self.view.random(stream, position)
        return self.source[swap_index(index, len(self.source), random)]

    def _fetch(self, rows: list[Row]) -> None:
        """Paths to bytes; those of buckets many at a time, since each is long in coming."""
        named = [row for row in rows if isinstance(row.picture, str)]
        remote = any("://" in row.picture for row in named)
        for row, content in zip(
            named, (self._pool.map if remote else map)(_read_or_why, named), strict=True
        ):
            if isinstance(content, bytes):
                row.picture = content
            else:
                self._fault(row, content.reason, str(content))

    def _look(self, row: Row) -> None:
        """Bytes to the finished picture; or, before a random window is cut, to its size."""
        if row.picture is None:
            return
        if not self.view.crops:
            row.picture = clip_image(row.picture, self.encode.image_size)
            return
        size = plain_size(row.picture) if isinstance(row.picture, bytes) else None
        if size is None:
            row.picture = open_image(row.picture)
            size = row.picture.height, row.picture.width
        row.size = size

    def _cut(self, window: np.ndarray, number: int, trust: bool, row: Row) -> None:
        """Takes the window out of whatever tf.data does not decode."""
        if isinstance(row.picture, bytes) and not trust:
            row.picture = _decoded(row.picture, window, number, self.encode.image_size)
        if isinstance(row.picture, Image.Image):
            row.picture = window_image(row.picture, window, self.encode.image_size)

    def _guarded(self, row: Row, step) -> None:
        try:
            step(row)
        except UnreadablePicture as error:
            self._fault(row, error.reason, str(error))

    def _fault(self, row: Row, reason: str, detail: str) -> None:
        """A picture that cannot be used: the record is lost, or stays with its words alone."""
        self.bad.fault(self.split, row.record.id, reason, detail)
        row.picture, row.size = None, (1, 1)
        if self.bad.policy == "skip" or not (self.encode.reads_text and row.text):
            row.record, row.text, row.lost = None, None, True

    def _has_image(self, row: Row) -> bool:
        """Whether a row has a picture; where none is opened, whether its record names one."""
        if self.encode.reads_image:
            return row.picture is not None
        return row.record is not None and row.record.image is not None

    def _gather(self, rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The JPEGs of the rows, the places of their finished pictures, and those pictures."""
        contents = np.full(len(rows), b"", object)
        places = np.zeros(len(rows), np.int32)
        finished = [self._no_picture]
        for number, row in enumerate(rows):
            if isinstance(row.picture, bytes):
                contents[number] = row.picture
            elif row.picture is not None:
                places[number] = len(finished)
                finished.append(row.picture)
        return contents, places, np.stack(finished)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.thread_time()
        yield
        self.seconds[stage] += time.thread_time() - start


def _read_or_why(row: Row) -> bytes | MissingPicture:
    """The bytes of the picture's file, or why there are none."""
    try:
        return read_picture(row.picture)
    except MissingPicture as error:
        return error


def _decoded(content: bytes, window, number: int, size: int) -> np.ndarray | Image.Image:
    """A plain JPEG as tf.data would decode it; opened by Pillow where TensorFlow refuses."""
    try:
        decode_one = _compiled_decoder(size)
        return decode_one(tf.constant(content), tf.constant(window), tf.constant(number)).numpy()
    except tf.errors.OpError:
        return open_image(content)


@functools.cache
def _compiled_decoder(size: int):
    signature = [tf.TensorSpec([], tf.string), tf.TensorSpec([4], tf.int32)]
    signature += [tf.TensorSpec([], tf.int32)]
    return tf.function(functools.partial(decode, size=size), input_signature=signature)
