"""The one thing that every source yields, and what a source is."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from cmaclip_jax.tasks import Task

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Record:
    """A picture with some words, and what is known of it.

    image: uint8 [H,W,3], or None where the pair has no picture.
    text: or None where the pair has no words.
    labels: {task: class name | tuple of class names | None}; None is unknown. A tuple,
        which may be empty, belongs to a many-label task.
    """

    id: str
    image: np.ndarray | None
    text: str | None
    labels: Mapping[str, str | tuple[str, ...] | None]


class Source(Protocol):
    """Records by index, the same one every time; and the tasks that they answer."""

    tasks: tuple[Task, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...
