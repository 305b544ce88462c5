"""One command at a time writes into a folder: a lock, told from what a dead process left behind."""

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
BEAT = 20.0  # seconds between two signs of life of who holds a lock
SILENCE = 4 * BEAT  # after which a process of another host is taken for gone
SHORT = 0.5  # seconds between two looks at a lock


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that a lock belongs to.

    kernel: whose process numbers `process` is one of. started: when, in that kernel's own count,
    since numbers come again. seen: the last sign of life.
    """

    host: str
    process: int
    since: str
    kernel: str
    started: str
    seen: str

    def is_gone(self) -> bool | None:
        """Whether that process has ended; None where this machine cannot know."""
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
    """Keeps other commands out of a folder, which is made if need be. Of several hosts one does.

    A lock that a killed process left is replaced, with a line that says so. Of a process on another
    machine that is known by its silence, which takes a while.

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
                folder.rmdir()  # where nothing was written


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
    """Makes the lock, in place of one that nobody holds any more."""
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
    """Removes a lock whose process is gone; raises UserError where it is there."""
    text = file.read_text()
    holder = _read(text)
    who = f"process {holder.process} on {holder.host}" if holder else "another command"
    gone = holder and holder.is_gone()
    if gone is None:
        _say(f"{file} is of {who}; looking for {SILENCE:.0f} s whether it is still there ...")
        gone = _stays(file, text)
    if not gone:
        since = f", since {holder.since}" if holder else ""
        raise UserError(
            f"{file.parent} is in use by {who}{since}; wait until it has ended, or name another "
            f"--workdir (if you know that nothing runs there: remove {file})"
        )
    aside = file.with_name(f".{uuid.uuid4().hex[:8]}.{file.name}")
    file.rename(aside)
    if aside.read_text() != text:  # somebody else was faster, and this is the new lock
        aside.rename(file)
        return
    aside.unlink()
    _say(f"{who} left {file} and is gone; going on")


def _stays(file: Path, text: str) -> bool:
    """Whether nobody gives a sign of life."""
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        time.sleep(min(SHORT, SILENCE))
        if file.read_text() != text:
            return False
    return True


def _beat(file: Path, own: Holder, ended: threading.Event) -> None:
    """Gives signs of life, until the lock is released or somebody else's."""
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            if not _is_of(file, own):
                return
            write_text(file, _text(dataclasses.replace(own, seen=_now())))


def _is_of(file: Path, own: Holder) -> bool:
    """Whether a lock is still this process's."""
    holder = _read(file.read_text())
    return holder is not None and dataclasses.replace(holder, seen=own.seen) == own


def _text(holder: Holder) -> str:
    return json.dumps(dataclasses.asdict(holder), indent=1) + "\n"


def _read(text: str) -> Holder | None:
    """What a lock says; None of one that was not written to its end."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z")


def _kernel() -> str:
    """What tells apart where equal process numbers mean different processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def _started(process: int) -> str:
    """When a process was started, in ticks of its kernel; '' where that is not told."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]  # ended, but still in the list


def _say(line: str) -> None:
    """One line for the person who watches."""
    print(line, file=sys.stderr, flush=True)
