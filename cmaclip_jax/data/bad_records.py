"""The list of records that cannot be used, and the limit on their share."""

import collections
import json
import threading
from collections.abc import Iterable
from pathlib import Path

from cmaclip_jax.errors import UserError

ENOUGH = 1_000  # records to read (or the whole split) before the share of lost ones counts
LISTED = 100_000  # lines in the file at most; further ones are only counted


class BadRecords:
    """The bad records of one run, each a line of WORKDIR/bad_records.jsonl.

    A `fault` is a record that cannot be used as it is. Under the policy 'fail' it ends the run. A
    `note` is a defect that was repaired, such as an unknown class read as an unknown label. Both
    are listed once, however often the record is read. The loader of training records reports with
    `saw` which records were lost; if their share is too large, the run ends. A record that is used
    without its picture is not lost.
    """

    def __init__(self, path: Path | None = None, policy: str = "skip", max_share: float = 0.05):
        self.policy = policy
        self.max_share = max_share
        self.reasons: collections.Counter = collections.Counter()  # {reason: number of records}
        self.faults = 0  # records that this process has lost
        self._path = path
        self._listed: set[tuple[str, str, str]] = set()
        self._read_before: dict[str, bytearray] = {}  # {split: for every record 1 if it was read}
        self._seen: collections.Counter = collections.Counter()  # {split: records read}
        self._lost: collections.Counter = collections.Counter()  # {split: lost ones among them}
        self._lock = threading.Lock()
        if path and path.exists():  # a resumed run does not list them again
            self._read()

    def fault(
        self, split: str, record: str, reason: str, detail: str = "", still_used: bool = False
    ) -> None:
        """Lists a record that cannot be used as it is. Raises UserError under the policy 'fail'.

        still_used: whether the record is used nevertheless, without its picture.
        """
        if self.policy == "fail":
            raise UserError(
                f"record {record!r} of {split}: {reason}{f' ({detail})' if detail else ''}; mend "
                "it, or let data.on_error be 'skip' or 'no_image'"
            )
        with self._lock:
            self.faults += self._list(split, record, reason, detail) and not still_used

    def note(self, split: str, record: str, reason: str, detail: str = "") -> None:
        """Lists a defect of a record that was repaired."""
        with self._lock:
            self._list(split, record, reason, detail)

    def saw(self, split: str, indices: Iterable[int], lost: Iterable[int], size: int) -> None:
        """Counts the records that were read for the first time, and the lost ones among them."""
        lost = set(lost)
        with self._lock:
            read_before = self._read_before.setdefault(split, bytearray(size))
            new = [index for index in indices if not read_before[index]]
            for index in new:
                read_before[index] = 1
        self.count(split, len(new), len(lost.intersection(new)), size)

    def count(self, split: str, seen: int, lost: int, size: int) -> None:
        """Adds to the counts of a split. Raises UserError if too many records are lost."""
        with self._lock:
            self._seen[split] += seen
            self._lost[split] += lost
            seen, lost = self._seen[split], self._lost[split]
        self.limit(split, seen, lost, size)

    def limit(self, split: str, seen: int, lost: int, size: int) -> None:
        """Raises UserError if too many of the records that were read are lost."""
        if lost > self.max_share * seen and seen >= min(ENOUGH, size):
            raise UserError(self._too_many(split, lost, seen))

    def summary(self) -> str:
        """One line with the count of each reason; '' if nothing was listed."""
        if not self.reasons:
            return ""
        counted = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
        return counted + (f"; listed in {self._path}" if self._path else "")

    def _list(self, split: str, record: str, reason: str, detail: str) -> bool:
        """Counts and lists an entry unless it is listed already. Returns whether it was new."""
        key = (split, record, reason)
        if key in self._listed:
            return False
        self.reasons[reason] += 1
        if len(self._listed) < LISTED:
            self._listed.add(key)
            if self._path:
                line = {"split": split, "id": record, "reason": reason, "detail": detail}
                with self._path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        return True

    def _read(self) -> None:
        for text in self._path.read_text().split("\n"):
            try:
                line = json.loads(text)
            except ValueError:  # the last line of a run that was killed
                continue
            self._listed.add((line["split"], line["id"], line["reason"]))
            self.reasons[line["reason"]] += 1

    def _too_many(self, split: str, lost: int, seen: int) -> str:
        where = f"; see {self._path}" if self._path else ""
        reason, times = self.reasons.most_common(1)[0]
        return (
            f"{lost:,} of the first {seen:,} records of {split} cannot be used (most often: "
            f"{reason}, {times:,} times), more than data.max_bad={self.max_share:g} allows"
            f"{where}; mend the data or raise it"
        )
