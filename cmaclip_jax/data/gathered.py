"""Records of several sources as one source."""

import functools
from collections.abc import Sequence

import numpy as np

from cmaclip_jax.data.order import SHUFFLED_TOGETHER
from cmaclip_jax.data.records import Label, Record, Source
from cmaclip_jax.tasks import Task


class Gathered:
    """The records of several sources with the same tasks, in order; or the `chosen` of them.

    chosen: numbers of records, counted through all sources; None: all records.
    """

    def __init__(self, parts: Sequence[Source], chosen: np.ndarray | None = None):
        self.parts = tuple(parts)
        ends = np.cumsum([len(part) for part in self.parts])
        self.chosen = np.arange(ends[-1]) if chosen is None else np.asarray(chosen)
        self._part = np.searchsorted(ends, self.chosen, side="right")  # of each record
        self._index = self.chosen - np.concatenate([[0], ends[:-1]])[self._part]  # in its part

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.parts[0].tasks

    @property
    def description(self) -> str:
        return getattr(self.parts[0], "description", "")

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Record:
        return self.parts[self._part[index]][int(self._index[index])]

    def text(self, index: int) -> str | None:
        return self.parts[self._part[index]].text(int(self._index[index]))

    def labels(self, task: str) -> Sequence[Label]:
        columns = [part.labels(task) for part in self.parts]
        return [columns[part][index] for part, index in self._places]

    @functools.cached_property
    def paths(self) -> Sequence[str | None]:
        columns = [getattr(part, "paths", [None] * len(part)) for part in self.parts]
        return [columns[part][index] for part, index in self._places]

    @functools.cached_property
    def chunks(self) -> np.ndarray | None:
        """The number of the block that stores each record; None if no source is read in blocks."""
        columns, first = [], 0
        own = [getattr(part, "chunks", None) for part in self.parts]
        if all(chunks is None for chunks in own):
            return None
        for part, chunks in zip(self.parts, own, strict=True):
            if chunks is None:  # its records need no block; they stand among the others
                chunks = np.arange(len(part)) // SHUFFLED_TOGETHER
            columns.append(first + chunks)
            first += int(chunks.max()) + 1 if len(chunks) else 0
        return np.concatenate(columns)[self.chosen]

    @property
    def together(self) -> int:
        return max(getattr(part, "together", SHUFFLED_TOGETHER) for part in self.parts)

    @property
    def _places(self) -> zip:
        return zip(self._part.tolist(), self._index.tolist(), strict=True)
