"""Faults and notes during a preparation, collected by record and listed in order.

Threads read records in any order, and a resumed preparation does not read finished shards again.
So faults and notes are stored with their record and listed shard by shard. A preparation that was
interrupted then lists the same as one that was not.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from cmaclip_jax.data.bad_records import BadRecords

Entry = tuple[str, str, str, str, str]  # 'fault' or 'note', split, record, reason, detail


class Overheard(BadRecords):
    """Collects faults and notes by thread instead of listing them.

    outside: those that come while no thread is `listening`, such as when sources are opened.
    """

    def __init__(self, policy: str = "skip"):
        super().__init__(policy=policy)
        self.outside: list[Entry] = []
        self._thread = threading.local()

    @contextlib.contextmanager
    def listening(self) -> Iterator[list[Entry]]:
        """Collects the faults and notes of this thread in a list."""
        self._thread.entries = entries = []
        try:
            yield entries
        finally:
            self._thread.entries = None

    def fault(
        self, split: str, record: str, reason: str, detail: str = "", stays: bool = False
    ) -> None:
        if self.policy == "fail":
            super().fault(split, record, reason, detail)
        self._keep("fault", split, record, reason, detail)

    def note(self, split: str, record: str, reason: str, detail: str = "") -> None:
        self._keep("note", split, record, reason, detail)

    def _keep(self, *entry: Any) -> None:
        entries = getattr(self._thread, "entries", None)
        (self.outside if entries is None else entries).append(entry)


def replay(entries: Iterable[Entry], bad: BadRecords) -> None:
    """Lists the collected faults and notes."""
    for kind, *entry in entries:
        (bad.fault if kind == "fault" else bad.note)(*entry)
