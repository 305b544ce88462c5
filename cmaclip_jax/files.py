"""Files that are written whole or not at all, so that a killed process leaves no half of one."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_IN_WORDS = tuple(map(os.strerror, FULL))  # of libraries that raise errors of their own


@contextlib.contextmanager
def whole_file(path: Any) -> Iterator[Path]:
    """Yields a path to write to. Its file replaces `path` when the block ends without an error.

    A reader sees the old file or the new one. The path that is yielded keeps the suffix of
    `path`, by which writers such as numpy's choose a format.

    path: a string or a path; a path of `etils.epath` may lie in a bucket.
    """
    path = path if hasattr(path, "with_name") else Path(path)
    part = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        with naming(path):
            yield part
        if "://" not in str(path):  # a bucket has what was written when the file is closed
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Adds the file's name to an OSError from inside. Errors of writing come without a name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def full_disk(error: BaseException | None) -> str:
    """One line for an error that a full disk caused, with the fix; '' for any other error."""
    while error is not None:
        said = any(words in str(error) for words in FULL_IN_WORDS)
        if said or getattr(error, "errno", 0) in FULL:
            name = getattr(error, "filename", None)
            where = f" for {name} ({free_space(name)} free)" if name else ""
            return f"no room is left on the disk{where}; make room, and give the same command again"
        error = error.__cause__ or error.__context__
    return ""


def free_space(path: str | Path) -> str:
    """The free space on the disk that holds a file or folder, such as '2.3 MB'."""
    path = Path(path).absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    return f"{shutil.disk_usage(there).free / 1e6:,.1f} MB"


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
