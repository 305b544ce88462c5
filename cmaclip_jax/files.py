"""Files that are written whole or not at all, so that a killed process leaves no half of one."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a path to write to. Its file replaces `path` when the block ends without an error.

    A reader sees the old file or the new one. The path that is yielded keeps the suffix of
    `path`, by which writers such as numpy's choose a format.

    path: may lie in a bucket, as a path of `etils.epath`.
    """
    path = path if hasattr(path, "with_name") else Path(path)
    part = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield part
        if "://" not in str(path):  # a bucket has what was written when the file is closed
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
