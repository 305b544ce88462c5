"""Writes any source as sharded record files with small pictures.

A shard is a function of (split, number). So an interrupted preparation skips finished shards and
ends with the same bytes, and Beam may distribute the shards over machines. The file of a shard has
a temporary name until it is complete. Then a small JSON file records that, and what it contains.
"""

import dataclasses
import functools
import itertools
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence

import tensorflow_datasets as tfds
from etils import epath

from cmaclip_jax.data.ahead import ahead
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.prepare.counts import RecordCounts
from cmaclip_jax.data.prepare.deferred_faults import DeferredFaults, Entry, replay
from cmaclip_jax.data.prepare.stored import make_features, shrink, to_example
from cmaclip_jax.data.record_files import FORMATS, open_writer
from cmaclip_jax.data.records import Record, RecordError, Sources
from cmaclip_jax.data.tfds_fields import MANIFEST, PREPARED
from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.tasks import Task

FINISHED, BAD, PART = "finished", "bad_records.jsonl", ".part"
AHEAD = 4  # records in progress for every thread


@dataclasses.dataclass(frozen=True)
class StorageFormat:
    """How records are stored: the shorter side in pixels, the JPEG quality, the file format.

    shards: of the training split. The others get shards in proportion to their sizes.
    """

    shards: int
    size: int = 256
    quality: int = 92
    format: str = "array_record"

    def __post_init__(self):
        for name, most in (("shards", 99_999), ("size", 65_500), ("quality", 100)):
            if not 1 <= getattr(self, name) <= most:
                raise UserError(f"--{name}={getattr(self, name)} must lie between 1 and {most}")
        if self.format not in FORMATS:
            raise UserError(f"--format={self.format} is none of {FORMATS}")


@dataclasses.dataclass(frozen=True)
class EncodedRecord:
    """A record with the example to write, and its faults and notes. An unusable record is None."""

    record: Record | None
    example: bytes
    entries: list[Entry]


class Preparation:
    """The shards of one output folder.

    origin: the description of the data in JSON. A folder has a single origin and a single form.
    """

    def __init__(
        self,
        sources: Sources,
        tasks: Sequence[Task],
        output: str | os.PathLike,
        form: StorageFormat,
        faults: DeferredFaults,
        origin: Mapping,
    ):
        self.sources = {split: source for split, source in sources.items() if len(source)}
        self.tasks, self.form, self.output = tuple(tasks), form, epath.Path(output).expanduser()
        self.faults = faults
        self.shards = count_shards({s: len(x) for s, x in self.sources.items()}, form.shards)
        self.features = make_features(tasks)
        self._claim(origin)

    def pieces(self) -> list[tuple[str, int]]:
        """Every (split, shard)."""
        return [(split, shard) for split, n in self.shards.items() for shard in range(n)]

    def rows(self, split: str, shard: int) -> range:
        """The records of a shard, by their indices in the source."""
        size, shards = len(self.sources[split]), self.shards[split]
        return range(shard * size // shards, (shard + 1) * size // shards)

    def finished(self, split: str, shard: int) -> RecordCounts | None:
        """The counts of a shard if it is finished, else None."""
        note, file = self._note(split, shard), self._file(split, shard)
        if not note.exists() or not file.exists():
            return None
        counts = RecordCounts.from_json(json.loads(note.read_text()))
        return counts if counts.file_bytes == file.stat().length else None

    def write(
        self, split: str, shard: int, tick: Callable[[], None] = lambda: None
    ) -> RecordCounts:
        """Writes a shard and returns its counts. Calls `tick` after every record."""
        counts = RecordCounts()
        part = self.output / FINISHED / f"{split}-{shard:05d}{part_suffix()}"
        with open_writer(os.fspath(part), self.form.format) as write:
            make, threads = functools.partial(self.encode, split), os.cpu_count() or 1
            rows = self.rows(split, shard)
            for encoded in ahead(make, rows, AHEAD * threads, threads):
                counts.entries += encoded.entries
                if encoded.record is not None:
                    counts.add(encoded.record, len(encoded.example), self.tasks)
                    write(encoded.example)
                tick()
        file = self._file(split, shard)
        part.replace(file)
        counts.file_bytes = file.stat().length
        write_json(self._note(split, shard), counts.to_json())
        return counts

    def encode(self, split: str, index: int) -> EncodedRecord:
        """One record with a small picture, and its example."""
        name = f"{split}-{index}"
        with self.faults.collecting() as entries:
            try:
                record = self.sources[split][index]
                name = record.id
                record = dataclasses.replace(record, image=self._picture(split, record))
                return EncodedRecord(record, to_example(record, self.tasks, self.features), entries)
            except RecordError as error:
                self._fault(split, name, error)
                return EncodedRecord(None, b"", entries)

    def finish(self, counts: Mapping[tuple[str, int], RecordCounts]) -> None:
        """Writes the metadata that TFDS needs, and removes files of interrupted preparations."""
        of_splits = {s: [counts[s, shard] for shard in range(n)] for s, n in self.shards.items()}
        infos = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard.records for shard in shards],
                num_bytes=sum(shard.bytes for shard in shards),
            )
            for split, shards in of_splits.items()
        ]
        tfds.folder_dataset.write_metadata(
            data_dir=self.output,
            features=self.features,
            split_infos=infos,
            description="Pairs of a picture and words, written by `cmaclip prepare`.",
            check_data=False,
        )
        finished = self.output / FINISHED
        unfinished = (finished.glob(f"*{PART}"), finished.glob(".*.json"))
        for file in (*itertools.chain(*unfinished), *self.output.glob(f".*.{MANIFEST}")):
            file.unlink(missing_ok=True)  # of a process that was killed

    def _picture(self, split: str, record: Record) -> bytes | None:
        if record.image is None:
            return None
        try:
            return shrink(record.image, self.form.size, self.form.quality)
        except RecordError as error:
            if self.faults.policy != "no_image":
                raise
            self._fault(split, record.id, error)
            return None

    def _fault(self, split: str, name: str, error: RecordError) -> None:
        reason, _, detail = str(error).partition(": ")
        self.faults.fault(split, name, reason, detail)

    def _claim(self, origin: Mapping) -> None:
        """Writes the manifest. Raises UserError if the folder's manifest or content is another."""
        manifest = {
            "data": origin,
            "form": dataclasses.asdict(self.form),
            "tasks": [dataclasses.asdict(task) for task in self.tasks],
            "records": {split: len(source) for split, source in self.sources.items()},
        }
        manifest = json.loads(json.dumps(manifest))
        file = self.output / MANIFEST
        try:
            if file.exists():
                check_same(json.loads(file.read_text()), manifest, self.output)
            elif self.output.exists() and any(self.output.iterdir()):
                raise UserError(f"{self.output} is not empty; name another --output")
            (self.output / FINISHED).mkdir(parents=True, exist_ok=True)
            if not file.exists():
                write_json(file, manifest)
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(f"cannot use {self.output} ({error}); name another --output") from error

    def _note(self, split: str, shard: int) -> epath.Path:
        return self.output / FINISHED / f"{split}-{shard:05d}.json"

    def _file(self, split: str, shard: int) -> epath.Path:
        """The file of a shard, named as by TFDS."""
        number = f"{shard:05d}-of-{self.shards[split]:05d}"
        return self.output / f"{PREPARED}-{split}.{self.form.format}-{number}"


Write = Callable[[str, int], RecordCounts]


def finish_all(
    preparation: Preparation, max_bad: float, write: Write
) -> tuple[dict[str, RecordCounts], BadRecords]:
    """Writes every shard that is not finished, and the metadata that TFDS needs.

    Returns the counts of every split, and the list of bad records.
    """
    bad = BadRecords(preparation.output / BAD, preparation.faults.policy, max_bad)
    replay(preparation.faults.outside, bad)
    of_shard, of_split = {}, {split: RecordCounts() for split in preparation.shards}
    for split, shard in preparation.pieces():
        counts = preparation.finished(split, shard) or write(split, shard)
        of_shard[split, shard] = counts
        of_split[split].join(counts)
        replay(counts.entries, bad)
        rows, size = len(preparation.rows(split, shard)), len(preparation.sources[split])
        bad.count(split, rows, rows - counts.records, size)
    preparation.finish(of_shard)
    return of_split, bad


def count_shards(sizes: Mapping[str, int], training: int) -> dict[str, int]:
    """{split: shards}: `training` for train, and in proportion for the others."""
    if not sizes:
        raise UserError("the data has no records; check data.source and data.path")
    whole = sizes.get("train") or max(sizes.values())
    return {s: min(size, max(1, round(training * size / whole))) for s, size in sizes.items()}


def check_same(old: Mapping, new: Mapping, output: os.PathLike) -> None:
    """Raises UserError if a folder was begun with other data or in another form."""
    for part in new:
        if old.get(part) == new[part]:
            continue
        was, now = old.get(part), new[part]
        if isinstance(was, dict) and isinstance(now, dict):
            name = next(name for name in {**was, **now} if was.get(name) != now.get(name))
            part, was, now = f"{part}.{name}", was.get(name), now.get(name)
        raise UserError(
            f"{output} was begun differently: {part} is {str(was)[:80]} there and "
            f"{str(now)[:80]} here; name another --output"
        )


def part_suffix() -> str:
    """The suffix of an incomplete file. It is unique, since Beam may write a shard twice."""
    return f".{uuid.uuid4().hex}{PART}"


def write_json(file: epath.Path, values: Mapping) -> None:
    """Writes a JSON file."""
    write_text(file, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
