"""Any TFDS data set, and what `cmaclip prepare` writes: read by random access.

The order of training is a function of (seed, step), so records are read by their index. Pictures
stay encoded.
"""

import collections
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from google.protobuf.message import DecodeError
from ml_collections import ConfigDict

from cmaclip_jax.data import sources
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.record_files import open_records
from cmaclip_jax.data.records import Label, Record, RecordError, Sources
from cmaclip_jax.data.tfds_fields import MANIFEST, Fields, LabelField, find_fields, parse
from cmaclip_jax.errors import UserError
from cmaclip_jax.tasks import Task

VALIDATION = ("val", "validation")  # names of that split in TFDS data sets
TRAIN_SHARE = 0.9  # of the training records, if the rest becomes val


def open_splits(data: ConfigDict, bad: BadRecords) -> Sources:
    """The splits of the data set that `data.tfds` and `data.path` name."""
    builder = open_builder(data)
    fields = find_fields(builder.info, data)
    expressions = find_splits(list(builder.info.splits), data.tfds)
    files = {split: _instructions(builder, which) for split, which in expressions.items()}
    _check_apart(expressions, files)
    kind = builder.info.file_format.value
    splits = {
        split: TFDSSplit(split, open_records(instructions, kind), fields, bad)
        for split, instructions in files.items()
    }
    if "val" not in splits:
        train = splits["train"]
        kept = round(TRAIN_SHARE * len(train))
        splits["val"] = train.part("val", range(kept, len(train)))
        splits["train"] = train.part("train", range(kept))
    if any(field.texts for field in fields.labels):
        labels = {field.name: splits["train"].labels(field.name) for field in fields.labels}
        fields = _with_classes(fields, labels)
        splits = {name: split.read_by(fields) for name, split in splits.items()}
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}


def cleaning_of(data: ConfigDict) -> str:
    """For what `cmaclip prepare` wrote, the cleaning of the data that it was made from."""
    manifest = epath.Path(data.path).expanduser() / MANIFEST
    if data.tfds.name or not manifest.exists():
        return ""
    origin = json.loads(manifest.read_text()).get("data", {})
    return sources.cleaning_of(ConfigDict(origin)) if "source" in origin else ""


def open_builder(data: ConfigDict) -> tfds.core.DatasetBuilder:
    """The builder of the data set, which is downloaded if it is named and not built yet."""
    path, name = os.path.expanduser(data.path), data.tfds.name
    if not name:
        return _builder_of_folder(path)
    try:
        builder = tfds.builder(name, data_dir=path or None, try_gcs=data.tfds.try_gcs)
        if not builder.is_prepared():
            print(f"building {name} in {builder.data_dir}", file=sys.stderr, flush=True)
            builder.download_and_prepare()
    except Exception as error:  # networks, archives and builders raise errors of any type
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"cannot open the TFDS data set {name!r}: {reason}; check data.tfds.name and "
            "data.path, or build it with `tfds build` and name its folder as data.path"
        ) from error
    return builder


def _builder_of_folder(path: str) -> tfds.core.DatasetBuilder:
    if not path:
        raise UserError(
            "which data set? name a builder with data.tfds.name, or a built one's folder with "
            "data.path"
        )
    try:
        return tfds.builder_from_directory(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no TFDS data set at {path!r}: data.path must be the folder with dataset_info.json, "
            "such as NAME/1.0.0; or name the builder with data.tfds.name"
        ) from error


def find_splits(known: Sequence[str], wanted: ConfigDict) -> dict[str, str]:
    """{our split: TFDS's expression}. 'val' is missing if a part of train must become val."""
    splits = {"train": wanted.train}
    val = wanted.val or next((name for name in VALIDATION if name in known), "")
    test = wanted.test or ("test" if "test" in known else "")
    return splits | ({"val": val} if val else {}) | ({"test": test} if test else {})


def _instructions(builder, expression: str) -> Sequence:
    """The files of a split, and which of their records belong to it."""
    try:
        return builder.info.splits[expression].file_instructions
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"no TFDS split {expression!r}; data.tfds.train, .val and .test may name or slice "
            f"{list(builder.info.splits)}"
        ) from error


def _check_apart(expressions: dict[str, str], files: dict[str, Sequence]) -> None:
    """Raises UserError if a record of train also belongs to another split."""
    training = collections.defaultdict(list)
    for item in files["train"]:
        training[item.filename].append(range(item.skip, item.skip + item.take))
    for split in files.keys() - {"train"}:
        shared = sum(
            max(0, min(rows.stop, item.skip + item.take) - max(rows.start, item.skip))
            for item in files[split]
            for rows in training[item.filename]
        )
        if shared:
            raise UserError(
                f"data.tfds.{split}={expressions[split]!r} shares {shared:,} records with "
                f"data.tfds.train={expressions['train']!r}; cut them apart, as 'train[:90%]' and "
                "'train[90%:]'"
            )


def _with_classes(fields: Fields, labels: Mapping[str, Sequence[Any]]) -> Fields:
    """The fields; those with labels stored as text get the classes that occur in training."""

    def filled(field: LabelField) -> LabelField:
        if not field.texts:
            return field
        classes = sorted({label for label in labels[field.name] if label is not None})
        return dataclasses.replace(field, classes=tuple(classes))

    return dataclasses.replace(fields, labels=tuple(filled(field) for field in fields.labels))


class TFDSSplit:
    """The records of one split: those of `rows`, or all."""

    def __init__(
        self,
        split: str,
        records: Sequence[bytes],
        fields: Fields,
        bad: BadRecords,
        rows: Sequence[int] | None = None,
    ):
        self._split, self._records, self._fields, self._bad = split, records, fields, bad
        self._rows = range(len(records)) if rows is None else rows
        self._labels: dict[str, list[Label]] = {}
        self._lock = threading.Lock()

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(field.task for field in self._fields.labels)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        raw = self._records[self._rows[index]]
        try:
            features = parse(raw)
            identity = self._fields.read_id(features) or f"{self._split}-{index}"
            return Record(
                id=identity,
                image=self._fields.read_image(raw, features),
                text=self._fields.read_text(features),
                labels=self._read_labels(features, identity),
            )
        except (DecodeError, LookupError, ValueError) as error:
            raise RecordError(f"malformed example: {error}") from error

    def text(self, index: int) -> str | None:
        return self[index].text

    def labels(self, task: str) -> list[Label]:
        """One task's labels. The first call reads the labels of all tasks at once."""
        with self._lock:
            if not self._labels:
                self._labels = self._all_labels()
            return self._labels[task]

    def part(self, split: str, rows: Sequence[int]) -> "TFDSSplit":
        """Some of these records as another split."""
        return TFDSSplit(split, self._records, self._fields, self._bad, rows)

    def read_by(self, fields: Fields) -> "TFDSSplit":
        """The same records, read by other fields."""
        return TFDSSplit(self._split, self._records, fields, self._bad, self._rows)

    def _all_labels(self) -> dict[str, list[Label]]:
        columns = {field.name: [] for field in self._fields.labels}
        for index, row in enumerate(self._rows):
            features = parse(self._records[row])
            identity = self._fields.read_id(features) or f"{self._split}-{index}"
            for name, label in self._read_labels(features, identity).items():
                columns[name].append(label)
        return columns

    def _read_labels(self, features, identity: str) -> dict[str, Label]:
        return {field.name: self._known(field, features, identity) for field in self._fields.labels}

    def _known(self, field: LabelField, features, identity: str) -> Label:
        """A label. One that training lacks is listed and becomes unknown."""
        label = field.read(features)
        if not field.texts or label is None or not field.classes or label in field.known:
            return label
        self._bad.note(self._split, identity, f"unknown class of {field.name}", str(label))
        return None
