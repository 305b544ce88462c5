"""What sources and pictures complain of while records are prepared, told in the right order.

Threads read records in any order, and a run that goes on does not read again what is
finished. So complaints are kept with the record that caused them, and reach the ledger shard
by shard: the list of a run that was stopped is that of one that was not.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator

from cmaclip_jax.data.bad_records import BadRecords

Entry = tuple[str, str, str, str, str]  # 'fault' or 'note', split, record, reason, detail


class Overheard(BadRecords):
    """A ledger that sources may write to, which only remembers who said what.

    `outside` has what was said while nobody listened: by sources as they were opened.
    """

    def __init__(self, policy: str = "skip"):
        super().__init__(policy=policy)
        self.outside: list[Entry] = []
        self._thread = threading.local()

    @contextlib.contextmanager
    def listening(self) -> Iterator[list[Entry]]:
        """What this thread says meanwhile."""
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

    def _keep(self, *entry: str) -> None:
        entries = getattr(self._thread, "entries", None)
        (self.outside if entries is None else entries).append(entry)


def replay(entries: Iterable[Entry], bad: BadRecords) -> None:
    """Tells a ledger what was overheard."""
    for kind, *entry in entries:
        (bad.fault if kind == "fault" else bad.note)(*entry)
