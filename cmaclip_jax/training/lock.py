"""A lock on a folder, so that only one command at a time writes into it.

A lock that a killed process left is recognised and replaced.
"""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import full_disk, naming, write_text
from cmaclip_jax.parallel.cluster import leader_first, leads
from cmaclip_jax.training.workdir import run_folder

LOCK = "run.lock"
BEAT = 20.0  # seconds between two signs of life of a lock's holder
SILENCE = 4 * BEAT  # a holder on another host counts as ended after so many silent seconds
SHORT = 0.5  # seconds between two reads of a lock


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that a lock belongs to.

    kernel: the machine (or container) that numbered the process. started: the start time of the
    process in that kernel's ticks, because process numbers are used again. seen: the last sign of
    life.
    """

    host: str
    process: int
    since: str
    kernel: str
    started: str
    seen: str

    def is_gone(self) -> bool | None:
        """Whether that process has ended; None if this machine cannot know."""
        if self.kernel != _kernel():
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # of another user
            pass
        return _started(self.process) != self.started


@contextlib.contextmanager
def holding(folder: str | Path, name: str = LOCK) -> Iterator[None]:
    """Keeps other commands out of a folder. The folder is made if need be.

    Of several hosts, the first one takes the lock. A lock of a killed process is replaced, and a
    line says so. Whether a process on another machine has ended shows by its silence, so that this
    takes `SILENCE` seconds.

    Raises:
      UserError: another command holds the lock.
    """
    folder = run_folder(folder)
    made = not folder.exists()
    with leader_first("taking the lock of the run's folder"):
        own = _take_in(folder, name) if leads() else None
    if own is None:
        yield
        return
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(folder / name, own, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with contextlib.suppress(OSError):
            if _is_of(folder / name, own):
                (folder / name).unlink()
            if made:
                folder.rmdir()  # fails unless the folder is empty


def _take_in(folder: Path, name: str) -> Holder:
    """Makes the folder and the lock in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _take(folder / name)
    except OSError as error:
        if full_disk(error):
            raise
        raise UserError(
            f"cannot write to workdir {str(folder)!r} ({error.strerror}); name another with "
            "--workdir"
        ) from error


def _take(file: Path) -> Holder:
    """Makes the lock. A lock whose process has ended is replaced."""
    now, process = _now(), os.getpid()
    own = Holder(socket.gethostname(), process, now, _kernel(), _started(process), now)
    while True:
        try:
            opened = file.open("x")
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):  # it was released meanwhile
                _remove_stale(file)
            continue
        try:
            with naming(file), opened:
                opened.write(_text(own))
        except OSError:
            file.unlink()
            raise
        return own


def _remove_stale(file: Path) -> None:
    """Removes a lock whose process has ended; raises UserError while the process runs."""
    text = file.read_text()
    holder = _read(text)
    who = f"process {holder.process} on {holder.host}" if holder else "another command"
    gone = holder and holder.is_gone()
    if gone is None:
        _say(f"{file} belongs to {who}; waiting up to {SILENCE:.0f} s for a sign of life ...")
        gone = _stays(file, text)
    if not gone:
        since = f", since {holder.since}" if holder else ""
        raise UserError(
            f"{file.parent} is in use by {who}{since}; wait until it has ended, or name another "
            f"--workdir (if you know that nothing runs there: remove {file})"
        )
    aside = file.with_name(f".{uuid.uuid4().hex[:8]}.{file.name}")
    file.rename(aside)
    if aside.read_text() != text:  # another process replaced the lock first
        aside.rename(file)
        return
    aside.unlink()
    _say(f"{who} ended without removing {file}; the lock is replaced")


def _stays(file: Path, text: str) -> bool:
    """Whether the holder gives no sign of life for `SILENCE` seconds."""
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        time.sleep(min(SHORT, SILENCE))
        if file.read_text() != text:
            return False
    return True


def _beat(file: Path, own: Holder, ended: threading.Event) -> None:
    """Writes a sign of life every `BEAT` seconds until the lock is released or replaced."""
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            if not _is_of(file, own):
                return
            write_text(file, _text(dataclasses.replace(own, seen=_now())))


def _is_of(file: Path, own: Holder) -> bool:
    """Whether this process still holds a lock."""
    holder = _read(file.read_text())
    return holder is not None and dataclasses.replace(holder, seen=own.seen) == own


def _text(holder: Holder) -> str:
    return json.dumps(dataclasses.asdict(holder), indent=1) + "\n"


def _read(text: str) -> Holder | None:
    """The holder that a lock names; None if the lock is incomplete."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z")


def _kernel() -> str:
    """An identity of the running kernel and its process numbers (one a boot and container)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def _started(process: int) -> str:
    """The start time of a process in ticks of its kernel; '' if the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]  # ended, but still in the list


def _say(line: str) -> None:
    """Prints a line to stderr."""
    print(line, file=sys.stderr, flush=True)
