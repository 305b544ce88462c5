"""Many strings in little memory."""

from collections.abc import Iterable, Sequence

import numpy as np


class PackedStrings(Sequence):
    """A list of strings, some of them None, as one block of UTF-8.

    A Python string takes some 50 bytes beside its characters, and a table has millions of them.
    """

    def __init__(self, values: Iterable[str | None]):
        values = list(values)
        parts = [b"" if value is None else value.encode(errors="surrogatepass") for value in values]
        self._ends = np.cumsum([0, *map(len, parts)])
        self._none = np.array([value is None for value in values], bool)
        self._bytes = b"".join(parts)

    def __len__(self) -> int:
        return len(self._none)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if self._none[index]:
            return None
        index = range(len(self))[index]
        part = self._bytes[self._ends[index] : self._ends[index + 1]]
        return part.decode(errors="surrogatepass")
