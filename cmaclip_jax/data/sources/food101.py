"""UPMC Food-101: a photo, the title of its web page, and one of 101 dishes.

`food101_layouts` recognises the layout of the folder `data.path`. In a layout without a validation
split, 5 % of the training pairs become one, chosen by a hash of their file names. So the split of
a pair depends on its name alone, and is the same in all such layouts.
"""

import dataclasses
import os
from collections.abc import Sequence

from ml_collections import ConfigDict

from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.records import SPLITS, Label, Record, Sources, hash_share
from cmaclip_jax.data.sources.food101_layouts import FoodPair, Splits, read_pairs
from cmaclip_jax.data.text import TITLES
from cmaclip_jax.data.titles import clean_title
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import Task

VAL_SHARE = 0.05  # of the training pairs, in layouts without a validation split


@dataclasses.dataclass(frozen=True)
class Food101:
    """The pairs of one split. Pictures are paths."""

    pairs: Sequence[FoodPair]
    tasks: tuple[Task, ...]
    with_image: bool = True
    with_text: bool = True

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Record:
        pair = self.pairs[index]
        return Record(
            id=pair.id,
            image=pair.image if self.with_image else None,
            text=self.text(index),
            labels={"category": pair.label},
        )

    @property
    def paths(self) -> list[str | None]:
        return [pair.image if self.with_image else None for pair in self.pairs]

    def text(self, index: int) -> str | None:
        return clean_title(self.pairs[index].title) or None if self.with_text else None

    def labels(self, task: str) -> list[Label]:
        return [{"category": pair.label}[task] for pair in self.pairs]


def open_splits(data: ConfigDict, bad: BadRecords) -> Sources:
    """The pairs in the folder `data.path`, in any of the known layouts."""
    for field in ("image", "text"):
        if data[field] not in ("", "none"):
            raise UserError(
                f"data.{field}={data[field]!r}: Food-101 has one {field} a pair; leave it '', or "
                "'none' to go without"
            )
    pairs = with_validation(read_pairs(data.path, bad))
    if not pairs["train"]:
        why = f" ({bad.summary()})" if bad.summary() else ""
        raise UserError(
            f"no training pair in {data.path} can be used{why}; compare it with its source"
        )
    task = Task("category", tuple(sorted({pair.label for pair in pairs["train"]})))
    inputs = {"with_image": data.image != "none", "with_text": data.text != "none"}
    return {
        split: Food101(with_known_classes(pairs[split], split, task, bad), (task,), **inputs)
        for split in SPLITS
        if pairs.get(split)
    }


def cleaning_of(data: ConfigDict) -> str:
    """Its titles come from web pages."""
    return TITLES


def with_validation(pairs: Splits) -> Splits:
    """The pairs, with a validation split taken from training if there was none."""
    if "val" in pairs:
        return pairs
    parts: Splits = {"train": [], "val": []}
    for pair in pairs["train"]:
        held_out = hash_share(os.path.basename(pair.image)) < VAL_SHARE
        parts["val" if held_out else "train"].append(pair)
    return {**pairs, **parts}


def with_known_classes(
    pairs: Sequence[FoodPair], split: str, task: Task, bad: BadRecords
) -> list[FoodPair]:
    """The pairs. A class that training lacks becomes an unknown label, and is listed."""
    classes, checked = set(task.classes), []
    for pair in pairs:
        if pair.label not in classes:
            bad.note(split, pair.id, "unknown class", pair.label)
            pair = dataclasses.replace(pair, label=None)
        checked.append(pair)
    return checked
