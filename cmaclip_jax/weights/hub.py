"""Repositories of the Hugging Face hub as local folders."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub

from cmaclip_jax.errors import UserError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def hub_folder(
    name: str, wanted: Callable[[list[str] | None], Sequence[str]], revision: str | None = None
) -> Path:
    """The folder of a hub repository in the local cache; what it lacks is downloaded.

    wanted: gives the patterns of the files to download, from the names of all files; from None if
        the hub cannot be reached, so that only the cache is read.
    """
    try:
        siblings = huggingface_hub.model_info(name, revision=revision, timeout=20).siblings
        files = [sibling.rfilename for sibling in siblings]
    except Exception:  # offline, unknown, private: the cache may still have it
        files = None
    patterns = list(wanted(files))
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=patterns, local_files_only=files is None
            )
        )
    except Exception as error:
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(
            f"{name!r} is no folder here, and the Hugging Face hub has no such name{at}, cannot be "
            "reached or requires a login (`hf auth login`); download it elsewhere and give the "
            "folder's path instead"
        ) from error
