"""What could not be used, why, and when it becomes too much: nothing is lost silently."""

import collections
import json
import threading
from collections.abc import Iterable
from pathlib import Path

from cmaclip_jax.errors import UserError

ENOUGH = 1_000  # records seen before the share of lost ones means something; or the whole split
LISTED = 100_000  # lines in the file at most; all are counted


class BadRecords:
    """The ledger of one run: a line of WORKDIR/bad_records.jsonl for everything that is wrong.

    A `fault` is a record that cannot be used as it is; under the policy 'fail' it ends the
    run. A `note` is something that was put right, such as an unknown class read as an unknown
    label. Both are listed once, however often they are met. Whoever reads records to train on
    says with `saw` which of them were lost, and too large a share of those ends the run. A
    record that stays without its picture is not lost.
    """

    def __init__(self, path: Path | None = None, policy: str = "skip", max_share: float = 0.05):
        self.policy = policy
        self.max_share = max_share
        self.reasons: collections.Counter = collections.Counter()  # {reason: records}
        self.faults = 0  # records that this process has lost
        self._path = path
        self._listed: set[tuple[str, str, str]] = set()
        self._met: dict[str, bytearray] = {}  # by split, for every record whether it was met
        self._seen: collections.Counter = collections.Counter()  # {split: records met}
        self._lost: collections.Counter = collections.Counter()  # {split: of those, lost ones}
        self._lock = threading.Lock()
        if path and path.exists():  # the run goes on: what is listed is not listed again
            self._read()

    def fault(
        self, split: str, record: str, reason: str, detail: str = "", stays: bool = False
    ) -> None:
        """A record of a split that cannot be used as it is; raises where the policy is to fail.

        stays: whether it is used all the same, without its picture.
        """
        if self.policy == "fail":
            raise UserError(
                f"record {record!r} of {split}: {reason}{f' ({detail})' if detail else ''}; mend "
                "it, or let data.on_error be 'skip' or 'no_image'"
            )
        with self._lock:
            self.faults += self._list(split, record, reason, detail) and not stays

    def note(self, split: str, record: str, reason: str, detail: str = "") -> None:
        """Something wrong with a record that could be put right."""
        with self._lock:
            self._list(split, record, reason, detail)

    def saw(self, split: str, indices: Iterable[int], lost: Iterable[int], size: int) -> None:
        """Records of a split of this size were met, for the first time or again, some lost."""
        lost = set(lost)
        with self._lock:
            met = self._met.setdefault(split, bytearray(size))
            new = [index for index in indices if not met[index]]
            for index in new:
                met[index] = 1
        self.count(split, len(new), len(lost.intersection(new)), size)

    def count(self, split: str, seen: int, lost: int, size: int) -> None:
        """So many more records of a split were met; raises UserError for too many lost ones."""
        with self._lock:
            self._seen[split] += seen
            self._lost[split] += lost
            seen, lost = self._seen[split], self._lost[split]
        self.limit(split, seen, lost, size)

    def limit(self, split: str, seen: int, lost: int, size: int) -> None:
        """Raises UserError where too many of the records that were looked at are lost."""
        if lost > self.max_share * seen and seen >= min(ENOUGH, size):
            raise UserError(self._too_many(split, lost, seen))

    def summary(self) -> str:
        """One line on everything that was listed; '' where there was nothing."""
        if not self.reasons:
            return ""
        counted = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
        return counted + (f"; listed in {self._path}" if self._path else "")

    def _list(self, split: str, record: str, reason: str, detail: str) -> bool:
        """Counts and lists it; whether it was new."""
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
            except ValueError:  # the last one, where a run was killed
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
