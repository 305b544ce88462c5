"""Faults and notes of a preparation: collected record by record, and listed shard by shard.

Threads read records in any order, and a resumed preparation does not read finished shards again.
The list of bad records is nevertheless the same after any interruption, because every shard's file
of counts stores its faults and notes.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from cmaclip_jax.data.bad_records import BadRecords

Entry = tuple[str, str, str, str, str]  # 'fault' or 'note', split, record, reason, detail


class DeferredFaults(BadRecords):
    """Collects faults and notes by thread instead of listing them.

    outside: those that come while no thread is `collecting`, such as when sources are opened.
    """

    def __init__(self, policy: str = "skip"):
        super().__init__(policy=policy)
        self.outside: list[Entry] = []
        self._thread = threading.local()

    @contextlib.contextmanager
    def collecting(self) -> Iterator[list[Entry]]:
        """Collects the faults and notes of this thread in a list."""
        self._thread.entries = entries = []
        try:
            yield entries
        finally:
            self._thread.entries = None

    def fault(
        self, split: str, record: str, reason: str, detail: str = "", still_used: bool = False
    ) -> None:
        if self.policy == "fail":
            super().fault(split, record, reason, detail)
        self._add("fault", split, record, reason, detail)

    def note(self, split: str, record: str, reason: str, detail: str = "") -> None:
        self._add("note", split, record, reason, detail)

    def _add(self, *entry: Any) -> None:
        entries = getattr(self._thread, "entries", None)
        (self.outside if entries is None else entries).append(entry)


def replay(entries: Iterable[Entry], bad: BadRecords) -> None:
    """Lists the collected faults and notes."""
    for kind, *entry in entries:
        (bad.fault if kind == "fault" else bad.note)(*entry)
