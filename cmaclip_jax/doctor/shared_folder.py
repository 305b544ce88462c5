"""Checks that every host can write to a run's folder, and that it is the same folder on all."""

import contextlib
import secrets
import time
from pathlib import Path

from cmaclip_jax.doctor.hosts import Check, Finding, hosts
from cmaclip_jax.errors import UserError
from cmaclip_jax.parallel.cluster import exchange

SECONDS_TO_CLEAR = 5.0  # for every host to remove its file
PAUSE = 0.5  # between two attempts to read a file that does not exist yet


class SharedFolder:
    """Every host writes a file with a random word; then every host reads the files of all.

    patience: the seconds that a file may take to appear on other hosts, as over NFS.
    """

    def __init__(self, path: str, count: int, patience: float = 30.0):
        self._folder, self._count = Path(path), count
        self._patience = patience
        self._new_folders: list = []  # folders that were not there before, the innermost first
        self._words: list[str] = []  # of every host
        self._file: Path | None = None

    def checks(self) -> list[Check]:
        """The check of writing; with several hosts, also the check of reading."""
        do = "name another with --workdir, or let this user write there"
        read = Check("workdir shared", self.read, self.judge_read, self._patience + 60)
        write = Check("workdir written", self.write, self.judge_written, do=do)
        return [write, read] if self._count > 1 else [write]

    def write(self) -> str:
        """Writes this host's file; returns its word."""
        word = secrets.token_hex(8)
        self._new_folders = [p for p in [self._folder, *self._folder.parents] if not p.exists()]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._folder / f".doctor-{word}"
            self._file.write_text(word)
            if self._file.read_text() != word:
                raise UserError(f"{self._folder} returns other data than was written")
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"cannot write to {self._folder} ({reason})") from error
        return word

    def judge_written(self, words: list[str]) -> Finding:
        """Good: every host has written its file."""
        self._words = words
        every = f" from all {self._count} hosts" if self._count > 1 else ""
        return Finding(True, f"{self._folder}{every}")

    def read(self) -> list[int]:
        """The numbers of the hosts whose file cannot be seen from here."""
        if not self._words:
            raise UserError("not every host could write there")
        deadline = time.monotonic() + self._patience
        unseen = dict(enumerate(self._words))
        while True:
            unseen = {k: word for k, word in unseen.items() if not self._sees(word)}
            if not unseen or time.monotonic() > deadline:
                return sorted(unseen)
            time.sleep(PAUSE)

    def judge_read(self, unseen: list[list[int]]) -> Finding:
        """Good if every host can read the files of all others."""
        blind = [
            f"host {k} does not see what {hosts(others, self._count + 1).removesuffix(': ')} wrote"
            for k, others in enumerate(unseen)
            if others
        ]
        if not blind:
            return Finding(True, f"the same folder on all {self._count} hosts")
        return Finding(
            False,
            "; ".join(blind[:3]) + (f"; and {len(blind) - 3} more" if len(blind) > 3 else ""),
            f"{self._folder} is another folder there: name one that all of them share (NFS, or a "
            "bucket that is mounted)",
        )

    def clear(self) -> None:
        """Removes what this host wrote, once all hosts have read."""
        with contextlib.suppress(OSError, ValueError):  # the folder may not be writable
            if self._file:
                self._file.unlink(missing_ok=True)
            exchange("doctor/cleared", "", SECONDS_TO_CLEAR)
            for folder in self._new_folders:
                folder.rmdir()  # fails unless it is empty

    def _sees(self, word: str) -> bool:
        try:
            return (self._folder / f".doctor-{word}").read_text() == word
        except OSError:
            return False
