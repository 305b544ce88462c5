"""The one thing that every source yields, and what a source is."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from cmaclip_jax.tasks import Task

SPLITS = ("train", "val", "test")

Label = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Record:
    """A picture with some words, and what is known of it.

    image: the bytes of a file, the path of one (any that `tf.io.gfile` opens), uint8 [H,W,3],
        or None where the pair has no picture. Nobody has looked at it yet.
    text: as it stands in the data, or None where the pair has no words.
    labels: {task: class name | tuple of class names | None}; None is unknown. A tuple,
        which may be empty, belongs to a many-label task.
    """

    id: str
    image: bytes | str | np.ndarray | None
    text: str | None
    labels: Mapping[str, Label]


class RecordError(Exception):
    """Why one record cannot be used; what follows from it is `data.on_error`'s business."""


class Source(Protocol):
    """The records of one split by index, the same one every time; and the tasks they answer.

    Reading may go on in several threads at once. `text` is the words of one record, `labels`
    one task's label of every record; neither decodes a picture.

    A source may also have `description`, a line on what was chosen to be read; `chunks`, for
    each record the number of the block that it can only be read with; and, where pictures are
    files, `paths` of all of them (None: no picture).
    """

    tasks: tuple[Task, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def text(self, index: int) -> str | None: ...

    def labels(self, task: str) -> Sequence[Label]: ...


Sources = Mapping[str, Source]  # by split, of those in SPLITS that the data has


def hash_share(name: str) -> float:
    """A number in [0,1) that the name alone decides: who is below s belongs to the share s."""
    digest = hashlib.blake2b(name.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
