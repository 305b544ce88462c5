"""Pictures that a file stores in groups, which are read and decompressed as a whole."""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any


class GroupCache:
    """The groups that were read last, for any thread: up to `most_bytes` or `least_groups`.

    The larger of the two limits counts. A group is anything with `nbytes`.
    """

    def __init__(self, most_bytes: int, least_groups: int):
        self._most, self._least, self._bytes = most_bytes, least_groups, 0
        self._groups: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], Any]) -> Any:
        """The group of this key; `read` reads a group that is not in memory."""
        with self._lock:
            if key not in self._groups:
                self._groups[key] = read()
                self._bytes += self._groups[key].nbytes
            self._groups.move_to_end(key)
            while self._bytes > self._most and len(self._groups) > self._least:
                self._bytes -= self._groups.popitem(last=False)[1].nbytes
            return self._groups[key]
