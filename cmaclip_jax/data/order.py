"""Which records a step gets: a pure function of (seed, step), on any number of hosts.

The order of an epoch is drawn from (seed, epoch). Step s takes positions s*B .. s*B+B of the
endless sequence of epochs.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from cmaclip_jax.data.records import Label
from cmaclip_jax.errors import UserError

SHUFFLED_TOGETHER = 1_024  # records, where they are read chunk by chunk


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """The endless sequence of epochs over `size` records.

    weights: how often each record is drawn, relative to the others; None: each once an epoch.
    chunks: for each record the number of the chunk that stores it. Chunks are shuffled, and then
        `together` records at a time, so that a chunk is read once an epoch.
    """

    size: int
    seed: int = 0
    weights: np.ndarray | None = None
    chunks: np.ndarray | None = None
    together: int = SHUFFLED_TOGETHER

    def indices(self, positions: Iterable[int]) -> list[int]:
        """The records at these positions."""
        places = (divmod(int(position), self.size) for position in positions)
        return [int(self._epochs(epoch)[offset]) for epoch, offset in places]

    @functools.cached_property
    def _epochs(self):
        return functools.lru_cache(maxsize=2)(self.epoch)

    def epoch(self, number: int) -> np.ndarray:
        """The order of the records in one epoch."""
        random = np.random.default_rng((self.seed, number))
        if self.weights is not None:
            return random.choice(self.size, self.size, p=self.weights / self.weights.sum())
        order = random.permutation(self.size)
        if self.chunks is None:
            return order
        places = random.permutation(self.chunks.max() + 1)  # of the chunks in this epoch
        by_chunk = np.argsort(places[self.chunks], kind="stable")
        starts = range(0, self.size, self.together)
        parts = [random.permutation(by_chunk[i : i + self.together]) for i in starts]
        return np.concatenate(parts)


def class_weights(labels: Sequence[Label], power: float) -> np.ndarray:
    """Weights that draw all classes of a task equally often (power 1) or less unequally (< 1).

    A record of several classes gets the weight of the rarest; an unlabelled one the mean weight.
    """
    named = [label if isinstance(label, tuple) else (label,) for label in labels]
    counts = collections.Counter(name for names in named for name in names if name is not None)
    if not counts:
        raise UserError("data.balance names a task without any label; name another, or ''")
    weights = np.array(
        [max((counts[name] ** -power for name in names if name), default=0) for names in named]
    )
    return np.where(weights > 0, weights, weights[weights > 0].mean())
