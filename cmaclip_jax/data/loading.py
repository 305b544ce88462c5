"""The rows of a batch from the records of a source. Records that cannot be used are listed here."""

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

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
from cmaclip_jax.data.jpeg import decode_one, decoder_number, plain_size
from cmaclip_jax.data.records import Record, RecordError, Source
from cmaclip_jax.data.storage import REMOTE_READS, is_local
from cmaclip_jax.data.view import View

DRAWS = 5  # uniform random numbers for a row: four for its crop, one for mirroring it


@dataclasses.dataclass
class Example:
    """A record on its way into a batch. Without a record it is a row of padding.

    index: the record's number in its source.
    position: where it stands in the order of the run.
    picture: first as the record has it (path, bytes or array), then its bytes, at last a PIL image
        or the finished array. Bytes that are left are a plain JPEG, which tf.data decodes.
    size: the picture's height and width, where a random crop needs them.
    replaced: whether noise removed the picture, or put another record's in its place.
    lost: whether the record cannot be used.
    """

    record: Record | None = None
    index: int = -1
    position: int = -1
    text: str | None = None
    picture: Any = None
    size: tuple[int, int] = (1, 1)
    replaced: bool = False
    lost: bool = False


class Loader:
    """Reads records of a source into batches. `bad` lists those that cannot be used.

    limited: whether too large a share of lost records is an error, as in training. An evaluation
        goes on without them.
    seconds: processor time of the threads that load, by stage.
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
        defer: bool = True,
    ) -> tuple[Batch, np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """A batch of `len(draws)` rows without pictures, and all that makes its pictures.

        Args:
          indices: of the records. If there are fewer than rows, padding follows them.
          positions: of the records in the order of the run.
          draws: uniform random numbers [rows,DRAWS].
          defer: leaves plain JPEGs to tf.data, which decodes them faster. Otherwise each is
            decoded here, so that one which cannot be decoded does not fail its whole batch.

        Returns the batch, the positions of its rows, the arguments of `decode_all` for every row,
        and the pictures that are finished, u8 [F,S,S,3]; the first of them stands for none.
        """
        with self._timed("read"):
            examples = [self._read(*pair) for pair in zip(indices, positions, strict=True)]
            self._read_files(examples)
        with self._timed("open and decode"):
            self._for_each(self._open, examples)
        examples += [Example()] * (len(draws) - len(examples))
        with self._timed("crop"):
            crops = self._crop_all(examples, draws, defer)
        with self._timed("tokens and labels"):
            batch = self.encode([one.record for one in examples], [one.text for one in examples])
        with self._timed("gather"):
            batch["has_image"][:] = list(map(self._has_image, examples))
            batch["had_image"][:] = [one.replaced or self._has_image(one) for one in examples]
            jpegs, finished = self._gather(examples)
        if self.limited:
            lost = [one.index for one in examples if one.lost]
            self.bad.saw(self.split, indices, lost, len(self.source))
        return batch, np.array([one.position for one in examples]), crops | jpegs, finished

    def _read(self, index: int, position: int) -> Example:
        """The record at `index`, its text after augmentation and noise."""
        try:
            record = self.source[index]
            if record.image is not None or record.text:
                return self._example(record, index, position)
            self.bad.fault(self.split, record.id, "neither picture nor words")
        except RecordError as error:
            reason, _, detail = str(error).partition(": ")
            self.bad.fault(self.split, f"number {index}", reason, detail)
        return Example(index=index, lost=True)

    def _example(self, record: Record, index: int, position: int) -> Example:
        picture = record.image if self.encode.reads_image else None
        replaced = picture is not None and self.view.replaces_picture(position)
        if replaced:
            picture = self.view.other_picture(self.source, index, position)
        text = record.text
        if text:
            text = self.view.change_text(text, self.source, index, position)
        return Example(record, index, position, text, picture, replaced=replaced)

    def _read_files(self, examples: list[Example]) -> None:
        """Replaces paths by the bytes of their files; a bucket is asked for many at once."""
        named = [one for one in examples if isinstance(one.picture, str)]
        local = all(is_local(one.picture) for one in named)
        contents = (map if local else self._pool.map)(_content, named)
        for example, content in zip(named, contents, strict=True):
            if isinstance(content, bytes):
                example.picture = content
            else:
                self._fault(example, content)

    def _open(self, example: Example) -> None:
        """Finishes the picture, or finds its size where a random crop is to follow."""
        if example.picture is None:
            return
        if not self.view.crops:
            example.picture = clip_image(example.picture, self.encode.image_size)
            return
        size = plain_size(example.picture) if isinstance(example.picture, bytes) else None
        if size is None:
            example.picture = open_image(example.picture)
            size = example.picture.height, example.picture.width
        example.size = size

    def _crop_all(self, examples: list[Example], draws: np.ndarray, defer: bool) -> dict:
        """Draws a crop for every row, and cuts it out of pictures that tf.data does not decode."""
        sizes = np.array([one.size for one in examples])
        windows = self.view.augment.windows(sizes, draws[:, :4])
        numbers = decoder_number(windows, self.encode.image_size)
        for example, window, number in zip(examples, windows, numbers, strict=True):
            self._for_each(functools.partial(self._crop, window, number, defer), [example])
        mirrored = (draws[:, 4] < 0.5) & self.view.augment.flip
        return {"mirrored": mirrored, "number": numbers, "window": windows}

    def _crop(self, window: np.ndarray, number: int, defer: bool, example: Example) -> None:
        if isinstance(example.picture, bytes) and not defer:
            pixels = decode_one(example.picture, window, number, self.encode.image_size)
            example.picture = open_image(example.picture) if pixels is None else pixels
        if isinstance(example.picture, Image.Image):
            example.picture = window_image(example.picture, window, self.encode.image_size)

    def _for_each(self, step: Callable[[Example], None], examples: list[Example]) -> None:
        """Takes a step with every example, and lists the pictures that cannot be read."""
        for example in examples:
            try:
                step(example)
            except UnreadablePicture as error:
                self._fault(example, error)

    def _fault(self, example: Example, error: UnreadablePicture) -> None:
        """Lists a picture that cannot be used, and drops the record or the picture alone."""
        record, detail = example.record, str(error)
        if isinstance(record.image, str) and record.image not in detail:
            detail = f"{record.image}: {detail}"
        self.bad.fault(self.split, record.id, error.reason, detail)
        example.picture, example.size = None, (1, 1)
        if self.bad.policy == "skip" or not (self.encode.reads_text and example.text):
            example.record, example.text, example.lost = None, None, True

    def _has_image(self, example: Example) -> bool:
        """Whether there is a picture. If the model reads none, what the record names counts."""
        if self.encode.reads_image:
            return example.picture is not None
        return example.record is not None and example.record.image is not None

    def _gather(self, examples: list[Example]) -> tuple[dict, np.ndarray]:
        """The JPEGs still to decode and the places of finished pictures; and those pictures."""
        contents = np.full(len(examples), b"", object)
        places = np.zeros(len(examples), np.int32)
        finished = [self._no_picture]
        for row, example in enumerate(examples):
            if isinstance(example.picture, bytes):
                contents[row] = example.picture
            elif example.picture is not None:
                places[row] = len(finished)
                finished.append(example.picture)
        return {"content": contents, "place": places}, np.stack(finished)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.thread_time()
        yield
        self.seconds[stage] += time.thread_time() - start


def _content(example: Example) -> bytes | MissingPicture:
    """The bytes of the file that holds the picture, or why there are none."""
    try:
        return read_picture(example.picture)
    except MissingPicture as error:
        return error
