"""The files that the path of a table names, and the split that each of them holds.

A path names a file, a pattern such as `data/*.parquet`, or a folder. A folder holds one of
    Parquet files, as on Hugging Face's hub: `data/train-00000-of-00002.parquet`, `val.parquet`
    a data set that `save_to_disk` wrote: `state.json` and Arrow files, per split or not
    an `imagefolder`: a `metadata.csv`, `.jsonl` or `.parquet` beside the pictures, per split or not
"""

import dataclasses
import glob
import os
import re

from etils import epath

from cmaclip_jax.errors import UserError

METADATA = "metadata"  # the name of imagefolder's tables, without their ending
METADATA_ENDINGS = (".csv", ".jsonl", ".parquet")
FILE_NAME = "file_name"  # the column of imagefolder's pictures
SAVED = "state.json"  # is in every folder that `datasets` has saved
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
WORD = re.compile(r"[a-z]+")


@dataclasses.dataclass(frozen=True)
class TableFile:
    """One file of a table.

    name: its path relative to the folder of the table (see `base_folder`).
    split: the split that its rows belong to; '' if its name says nothing of one.
    """

    path: str
    name: str
    split: str = ""

    @property
    def folder(self) -> str:
        return os.path.dirname(self.name)


def table_files(path: str) -> list[TableFile]:
    """The files that a path names, in the order of their names."""
    if os.path.isdir(path):
        found = _saved(path) or _metadata(path) or _parquet(path)
        if not found:
            raise UserError(
                f"the folder {path!r} holds no table: no Parquet file, no {METADATA}.csv or .jsonl "
                "beside pictures, and nothing that `datasets` saved; name a table file"
            )
    elif is_pattern(path):
        found = _matches(path)
        if not found:
            raise UserError(f"no file matches {path!r}")
    else:
        return [TableFile(path, os.path.basename(path))]
    names = [os.path.relpath(file, base_folder(path) or ".") for file in found]
    return [TableFile(*pair, split_of(pair[1])) for pair in zip(found, names, strict=True)]


def file_versions(path: str) -> dict[str, list[int]]:
    """The size and the time of change of a table's files; of files in a bucket the names alone."""
    files = table_files(path)
    if "://" in path:
        return {file.name: [] for file in files}
    stats = {file.name: os.stat(file.path) for file in files}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def split_of(file: str) -> str:
    """The split that a file's name or, without one, its folders' names say; '' for none."""
    for part in reversed(file.lower().split(os.sep)):
        names = [SPLIT_NAMES[word] for word in WORD.findall(part) if word in SPLIT_NAMES]
        if names:
            return names[0]
    return ""


def is_pattern(path: str) -> bool:
    """Whether a path is a pattern. A local file whose name looks like one is a file.

    In a bucket only * makes a pattern, since a look whether such a file exists takes long.
    """
    return "*" in path if "://" in path else glob.has_magic(path) and not os.path.exists(path)


def base_folder(path: str) -> str:
    """The folder at which the relative paths of a table's pictures start."""
    if os.path.isdir(path):
        return path
    return os.path.dirname(re.split(r"[*?[]", path)[0] if is_pattern(path) else path)


def _matches(pattern: str) -> list[str]:
    """The files, on a disk or in a bucket, that match a pattern."""
    if "://" not in pattern:
        return sorted(glob.glob(pattern, recursive=True))
    base = base_folder(pattern)
    return sorted(map(str, epath.Path(base).glob(pattern[len(base) :].lstrip("/"))))


def _saved(folder: str) -> list[str]:
    """The Arrow files of a folder that `datasets` saved, without its caches."""
    if not _inside(folder, SAVED):
        return []
    files = _inside(folder, "*.arrow")
    return [file for file in files if not os.path.basename(file).startswith("cache-")]


def _metadata(folder: str) -> list[str]:
    return [file for ending in METADATA_ENDINGS for file in _inside(folder, METADATA + ending)]


def _parquet(folder: str) -> list[str]:
    return _inside(folder, "*.parquet")


def _inside(folder: str, pattern: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), "**", pattern), recursive=True))
