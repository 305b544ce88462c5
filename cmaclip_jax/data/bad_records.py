"""What could not be used, why, and when it becomes too much: nothing is lost silently."""

import collections
import json
import threading
from collections.abc import Iterable
from pathlib import Path

from cmaclip_jax.errors import UserError

POLICIES = ("skip", "fail", "no_image")
ENOUGH = 1_000  # records seen before their bad share means something; or the whole split
LISTED = 10_000  # lines in the file at most; all are counted


class BadRecords:
    """The ledger of one run: a line of WORKDIR/bad_records.jsonl for everything that is wrong.

    A `fault` is a record that cannot be used as it is: it counts against `max_share`, and
    under the policy 'fail' it ends the run. A `note` is something that was put right, such
    as an unknown class read as an unknown label. Both are listed once, however often they
    are met.
    """

    def __init__(self, path: Path | None = None, policy: str = "skip", max_share: float = 0.05):
        self.policy = policy
        self.max_share = max_share
        self.reasons: collections.Counter = collections.Counter()  # {reason: records}
        self._path = path
        self._listed: set[tuple[str, str, str]] = set()
        self._faults: dict[str, set[str]] = collections.defaultdict(set)
        self._seen: dict[str, bytearray] = {}
        self._count: collections.Counter = collections.Counter()  # {split: records met}
        self._lock = threading.Lock()
        if path and path.exists():  # the run goes on: what is listed is not listed again
            for line in map(json.loads, path.read_text().splitlines()):
                self._listed.add((line["split"], line["id"], line["reason"]))
                self.reasons[line["reason"]] += 1

    def fault(self, split: str, record: str, reason: str, detail: str = "") -> None:
        """A record of a split that cannot be used; raises where the policy is to fail."""
        if self.policy == "fail":
            raise UserError(
                f"record {record!r} of {split}: {reason}{f' ({detail})' if detail else ''}; mend "
                "it, or let data.on_error be 'skip' or 'no_image'"
            )
        with self._lock:
            self._faults[split].add(record)
            self._list(split, record, reason, detail)

    def note(self, split: str, record: str, reason: str, detail: str = "") -> None:
        """Something wrong with a record that could be put right."""
        with self._lock:
            self._list(split, record, reason, detail)

    def saw(self, split: str, indices: Iterable[int], size: int) -> None:
        """Records of a split were met; raises UserError where too many of them were bad."""
        with self._lock:
            seen = self._seen.setdefault(split, bytearray(size))
            for index in indices:
                self._count[split] += not seen[index]
                seen[index] = 1
        if self._count[split] >= min(ENOUGH, size):
            self.check_share(split, self._count[split])

    def check_share(self, split: str, count: int) -> None:
        """Raises UserError where too many of the `count` records met so far were bad."""
        faults = self.faults(split)
        if faults > self.max_share * count:
            raise UserError(self._too_many(split, faults, count))

    def faults(self, split: str) -> int:
        """How many records of a split cannot be used, as far as is known."""
        return len(self._faults[split])

    def summary(self) -> str:
        """One line on everything that was listed; '' where there was nothing."""
        if not self.reasons:
            return ""
        counted = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
        return counted + (f"; listed in {self._path}" if self._path else "")

    def _list(self, split: str, record: str, reason: str, detail: str) -> None:
        key = (split, record, reason)
        if key in self._listed:
            return
        self._listed.add(key)
        self.reasons[reason] += 1
        if self._path and len(self._listed) <= LISTED:
            line = {"split": split, "id": record, "reason": reason, "detail": detail}
            with self._path.open("a") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _too_many(self, split: str, faults: int, count: int) -> str:
        where = f"; see {self._path}" if self._path else ""
        reason, times = self.reasons.most_common(1)[0]
        return (
            f"{faults:,} of the first {count:,} records of {split} cannot be used (most often: "
            f"{reason}, {times:,} times), more than data.max_bad={self.max_share:g} allows"
            f"{where}; mend the data or raise it"
        )
