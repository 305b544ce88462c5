"""Folds: all records of the data, divided anew into the records to learn from and a fold to test.

A fold is tested by a model that has not seen it. The models of all folds together answer every
record once.
"""

from pathlib import Path

import numpy as np

from cmaclip_jax.data.gathered import Gathered
from cmaclip_jax.data.records import SPLITS, Sources
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import whole_file


def all_records(sources: Sources) -> Gathered:
    """The records of all splits, in the order in which folds count them."""
    return Gathered([sources[split] for split in SPLITS if split in sources])


def split_names(sources: Sources) -> np.ndarray:
    """The name of the split of each record, in the same order."""
    names = [split for split in SPLITS if split in sources]
    return np.repeat(names, [len(sources[split]) for split in names])


def write_folds(path: Path, numbers: np.ndarray) -> None:
    """Writes the number of the fold of each record."""
    with whole_file(path) as part, part.open("wb") as file:
        np.save(file, np.asarray(numbers, np.int16), allow_pickle=False)


def divided(sources: Sources, path: str, fold: int) -> Sources:
    """One fold as the test split, and all other records as the training split."""
    records = all_records(sources)
    try:
        numbers = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"data.folds={path!r} cannot be read ({error})") from error
    if numbers.shape != (len(records),):
        raise UserError(
            f"data.folds={path!r} is for {numbers.size:,} records, and this data has "
            f"{len(records):,}; the data has changed since, so begin in a new --workdir"
        )
    tested = numbers == fold
    if not tested.any() or tested.all():
        raise UserError(f"data.fold={fold}: {path} has the folds {np.unique(numbers).tolist()}")
    return {
        "train": Gathered(records.parts, np.flatnonzero(~tested)),
        "test": Gathered(records.parts, np.flatnonzero(tested)),
    }
