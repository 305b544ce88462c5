"""What a record is, and what a source of records must offer."""

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
    """A pair of picture and text, with its labels.

    image: the bytes of a file, the path of a file (local or in a bucket), uint8 [H,W,3], or None
        where the pair has no picture. It has not been decoded, and may be broken.
    text: as the data have it, or None where the pair has none.
    labels: {task: class name | tuple of class names | None}. None is unknown. The labels of a
        many-label task are a tuple, which may be empty.
    weight: how much the record counts in the training loss; above 0.
    """

    id: str
    image: bytes | str | np.ndarray | None
    text: str | None
    labels: Mapping[str, Label]
    weight: float = 1.0


class RecordError(Exception):
    """Why a record cannot be used. `data.on_error` decides what happens then."""


class Source(Protocol):
    """The records of one split by index, and the tasks that they have labels for.

    An index always gives the same record. Several threads may read at once. `text` gives the text
    of one record, `labels` the label of every record for one task; neither decodes a picture.

    A source may have more attributes. `description` is a line about the columns or features that
    it reads. `chunks` has the number of the block in which each record is stored, if blocks are
    read as a whole; `together` is then the number of records that may be shuffled together.
    `paths` has the picture's path of every record (None: no picture), if pictures are files.
    """

    @property
    def tasks(self) -> tuple[Task, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def text(self, index: int) -> str | None: ...

    def labels(self, task: str) -> Sequence[Label]: ...


Sources = Mapping[str, Source]  # by split; the data may lack some of SPLITS


def hash_share(name: str) -> float:
    """A number in [0,1) that depends on the name alone. A share s of all names is below s."""
    digest = hashlib.blake2b(name.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
