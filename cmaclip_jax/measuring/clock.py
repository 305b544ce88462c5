"""Times of what is done again and again, and how far they spread."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping

import numpy as np

ROUNDS = 10  # blocks of turns that are timed, each as one
WARMING = 4  # turns before that: the first ones touch memory that the kernel has yet to clear


@dataclasses.dataclass(frozen=True)
class Timing:
    """`blocks`: seconds of a turn, averaged over each block of turns."""

    blocks: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.blocks))

    @property
    def spread(self) -> float:
        """Half of what the middle half of the blocks spans, as a share of the median."""
        low, high = np.percentile(self.blocks, (25, 75))
        return float(high - low) / 2 / self.median


def interleaved(
    ways: Mapping[str, Callable[[int], None]], seconds: float, rounds: int = ROUNDS
) -> dict[str, Timing]:
    """Times every way in turn, A B A B, so that whatever slows the machine down slows all.

    ways: each does as many turns as it is told, and returns when the last one is done.
    seconds: how long each of them is measured, at least.
    """
    turns = {name: _turns(way, seconds / rounds) for name, way in ways.items()}
    blocks: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            blocks[name].append(_timed(way, turns[name]) / turns[name])
    return {name: Timing(tuple(times)) for name, times in blocks.items()}


def _turns(way: Callable[[int], None], seconds: float) -> int:
    """How many turns last so long, after those that warm up."""
    way(WARMING)
    return max(1, math.ceil(seconds / _timed(way, 1)))


def _timed(way: Callable[[int], None], turns: int) -> float:
    start = time.perf_counter()
    way(turns)
    return time.perf_counter() - start
