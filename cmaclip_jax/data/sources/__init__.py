"""Where records come from: one file per kind of source, one function that opens any."""

import importlib
import os

from ml_collections import ConfigDict

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.records import Sources
from cmaclip_jax.errors import UserError

# Each is a module here with `open_splits(data, bad) -> {split: Source}`. One whose texts need more
# cleaning than others also has `cleaning_of(data)`, a name of data/text.py's CLEANINGS.
KINDS = ("shop", "table", "food101", "fashion_gen", "tfds")


def open_sources(data: ConfigDict, bad: BadRecords) -> Sources:
    """The records of every split that the data has, as `config.data` describes them."""
    _check_path(data)
    kind = importlib.import_module(f"cmaclip_jax.data.sources.{data.source}")
    before = bad.faults
    sources = kind.open_splits(data, bad)
    lost = bad.faults - before
    rows = sum(map(len, sources.values())) + lost
    bad.count("the data", rows, lost, rows)
    return sources


def cleaning_of(data: ConfigDict) -> str:
    """How the texts of the data that `config.data` describes are cleaned, by its name."""
    kind = importlib.import_module(f"cmaclip_jax.data.sources.{data.source}")
    return kind.cleaning_of(data) if hasattr(kind, "cleaning_of") else ""


def _check_path(data: ConfigDict) -> None:
    """A local path has to be there; TFDS makes the folder of a builder that it fetches."""
    path = data.path
    fetched = data.source == "tfds" and data.tfds.name
    if not path or "://" in path or fetched or os.path.exists(path):
        return
    seen = "" if os.path.isabs(path) else f", seen from {os.getcwd()}"
    raise UserError(f"there is no data.path={path!r}{seen}; say where with --config.data.path=...")
