"""Sources of records: a module for each kind, and a function that opens any."""

import importlib
import os

from ml_collections import ConfigDict

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.records import Sources
from cmaclip_jax.data.table_files import is_pattern
from cmaclip_jax.errors import UserError

# Each is a module here with `open_splits(data, bad) -> {split: Source}`. If its texts need special
# cleaning, it also has `cleaning_of(data)`, which returns a name in CLEANINGS of data/text.py.


def open_sources(data: ConfigDict, bad: BadRecords) -> Sources:
    """The records of every split of the data that `config.data` describes."""
    _check_path(data)
    kind = importlib.import_module(f"cmaclip_jax.data.sources.{data.source}")
    before = bad.faults
    sources = kind.open_splits(data, bad)
    lost = bad.faults - before
    rows = sum(map(len, sources.values())) + lost
    bad.count("the data", rows, lost, rows)
    return sources


def cleaning_of(data: ConfigDict) -> str:
    """The name of the cleaning for the texts of the data that `config.data` describes."""
    kind = importlib.import_module(f"cmaclip_jax.data.sources.{data.source}")
    return kind.cleaning_of(data) if hasattr(kind, "cleaning_of") else ""


def _check_path(data: ConfigDict) -> None:
    """Raises UserError if a local path is missing, is no pattern, and TFDS will not create it."""
    path = data.path
    fetched = data.source == "tfds" and data.tfds.name
    if not path or "://" in path or fetched or os.path.exists(path) or is_pattern(path):
        return
    seen = "" if os.path.isabs(path) else f", seen from {os.getcwd()}"
    raise UserError(f"there is no data.path={path!r}{seen}; say where with --config.data.path=...")
