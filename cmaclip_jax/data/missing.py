"""Finds missing picture files before a run starts."""

import collections
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cmaclip_jax.data.bad_records import ENOUGH
from cmaclip_jax.data.storage import REMOTE_READS, exists


def missing_pictures(paths: Sequence[str | None]) -> tuple[int, list[int]]:
    """The number of records that were checked, and the indices of those whose picture is missing.

    Local pictures are all checked, by listing each folder once. Of remote pictures a sample is.
    """
    folders, remote = collections.defaultdict(list), []
    for place, path in enumerate(paths):
        if path is not None and "://" in path:
            remote.append(place)
        elif path is not None:
            folders[os.path.dirname(path)].append(place)
    missing = []
    for folder, places in folders.items():
        names = _names(folder)
        missing += [place for place in places if not _is_there(paths[place], names)]
    sample = [remote[number] for number in spread(len(remote), ENOUGH)]
    with ThreadPoolExecutor(REMOTE_READS) as pool:
        there = pool.map(exists, [paths[place] for place in sample])
        missing += [place for place, found in zip(sample, there, strict=True) if not found]
    return len(paths) - len(remote) + len(sample), sorted(missing)


def spread(size: int, most: int) -> list[int]:
    """Up to `most` evenly spaced indices below `size`."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).astype(int)).tolist()


def _names(folder: str) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder or ".")}
    except (OSError, ValueError):  # the folder is missing or cannot be listed
        return set()


def _is_there(path: str, names: set[str]) -> bool:
    """Whether a file exists. Some file systems list a name in another Unicode form."""
    try:
        return os.path.basename(path) in names or os.path.exists(path)
    except ValueError:  # a name that no file can have
        return False
