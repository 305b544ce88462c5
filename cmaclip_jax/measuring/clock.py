"""Repeated timings of one piece of work, with their median and spread."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping

import numpy as np

ROUNDS = 10  # blocks of repetitions; each block is timed as one
WARM_UP = 4  # repetitions before that: the first ones touch memory that the kernel must clear


@dataclasses.dataclass(frozen=True)
class Timing:
    """`blocks`: seconds of one repetition, averaged over each block."""

    blocks: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.blocks))

    @property
    def spread(self) -> float:
        """Half of the interquartile range of the blocks, as a share of the median."""
        low, high = np.percentile(self.blocks, (25, 75))
        return float(high - low) / 2 / self.median


def interleaved(
    ways: Mapping[str, Callable[[int], None]], seconds: float, rounds: int = ROUNDS
) -> dict[str, Timing]:
    """Times several functions in turn, A B A B, so that a slow machine slows all of them.

    ways: each repeats its work as often as its argument says, and returns when all is done.
    seconds: how long each of them is measured, at least.
    """
    turns = {name: _turns(way, seconds / rounds) for name, way in ways.items()}
    blocks: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            blocks[name].append(_timed(way, turns[name]) / turns[name])
    return {name: Timing(tuple(times)) for name, times in blocks.items()}


def _turns(way: Callable[[int], None], seconds: float) -> int:
    """How many repetitions take so many seconds, measured after the warm-up."""
    way(WARM_UP)
    return max(1, math.ceil(seconds / _timed(way, 1)))


def _timed(way: Callable[[int], None], turns: int) -> float:
    start = time.perf_counter()
    way(turns)
    return time.perf_counter() - start
