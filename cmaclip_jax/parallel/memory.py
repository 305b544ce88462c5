"""Recognises out-of-memory errors of devices and of the host by their texts."""

import dataclasses
import re

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}

# The first SIZE is the requested size, the second one the available size.
REFUSALS = (
    "Out of memory allocating SIZE",  # XLA, for a CPU
    "Out of memory while trying to allocate SIZE",  # XLA, for a GPU
    "Failed to allocate request for SIZE",  # the same
    r"HLO temporaries \(SIZE\) exceeds available HBM \(SIZE\)",  # the compiler for TPUs
    r"Ran out of memory in memory space hbm\. Used SIZE of SIZE hbm",  # the same
    # A TPU that loads a program or allocates an array.
    r"Attempting to (?:allocate|reserve) SIZE(?: at the bottom of memory)?\."
    r"\s+That was not possible\. There are SIZE free",
    "Unable to allocate SIZE",  # NumPy
    "CUDA_ERROR_OUT_OF_MEMORY",  # without a size
)
SIZE = r"([\d.]+ ?[KMGTP]?)"


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An allocation that failed: bytes asked for and bytes available, None where not stated."""

    asked: float | None = None
    available: float | None = None

    def __str__(self):
        if self.asked is None:
            return "memory ran out"
        of = "" if self.available is None else f" where there are {_gibibytes(self.available)}"
        return f"{_gibibytes(self.asked)} of memory were asked for{of}"


def refusal_of(error: BaseException) -> Refusal | None:
    """The failed allocation that an error reports; None for other errors, such as a full disk."""
    text = str(error)
    for pattern in REFUSALS:
        if found := re.search(pattern.replace("SIZE", SIZE), text):
            return Refusal(*map(_bytes, found.groups()))
    return Refusal() if isinstance(error, MemoryError) else None


def _bytes(size: str) -> float:
    unit = size[-1] if size[-1] in UNITS else ""
    return float(size.removesuffix(unit)) * UNITS[unit]


def _gibibytes(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
