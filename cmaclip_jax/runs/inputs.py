"""What a run reads: its sources, its tasks, its tokenizer, and batches of any split."""

import contextlib
import dataclasses
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cmaclip_jax.data.augment import Augment
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.batches import Batch, Encoder
from cmaclip_jax.data.loading import Loader, View
from cmaclip_jax.data.missing import missing_pictures, spread
from cmaclip_jax.data.noise import Noise
from cmaclip_jax.data.order import Order, class_weights
from cmaclip_jax.data.pipeline import eval_batches, train_batches
from cmaclip_jax.data.records import RecordError, Source, Sources
from cmaclip_jax.data.sources import cleaning_of, open_sources
from cmaclip_jax.data.text import Tokenizer, train_tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.parallel.mesh import host_rows, shared_rows
from cmaclip_jax.tasks import Task, read_tasks, select_tasks, write_tasks
from cmaclip_jax.runs.towers import Towers, run_tokenizer, with_sizes

SAMPLED = 20_000  # texts that a tokenizer is trained on and a text length measured by
LONGEST = 77  # tokens that `data.text_length=-1` takes from scratch at most, as CLIP does


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of a run. `bad` lists what could not be used as it was.

    rows: from the size of a batch to those of its rows that this host makes.
    longest: the tokens that a text may have by pretrained weights; 0 from scratch.
    """

    config: ConfigDict
    tasks: tuple[Task, ...]
    encode: Encoder
    sources: Sources
    bad: BadRecords
    rows: Callable[[int], np.ndarray] = np.arange
    longest: int = 0

    def over(self, mesh: Mesh) -> "Data":
        """The same data for the devices of a mesh: this host reads the rows that its own hold.

        A batch of an evaluation that does not divide over the devices becomes a smaller one,
        which changes no figure.
        """
        config = self.config.copy_and_resolve_references()
        config.eval.batch_size = shared_rows(mesh, config.eval.batch_size)
        return dataclasses.replace(self, config=config, rows=functools.partial(host_rows, mesh))

    def source(self, split: str) -> Source:
        """The records of a split."""
        if split not in self.sources:
            raise UserError(f"this data has no split {split!r}, only {', '.join(self.sources)}")
        return self.sources[split]

    def last_split(self) -> str:
        """The split that a run is judged by in the end."""
        return self.config.eval.split or ("test" if "test" in self.sources else "val")

    def loader(self, split: str, training: bool) -> Loader:
        """What reads the records of a split into batches."""
        view = self.view(training)
        return Loader(self.source(split), split, self.encode, self.bad, view, limited=training)

    def train_batches(self, start: int, params: Any = None) -> Iterator[Batch]:
        """This host's batches for step `start` and all that follow, whatever the parameters."""
        return train_batches(
            self.loader(self.config.data.split, training=True),
            self.order,
            batch_size=self.config.train.batch_size,
            start=start,
            rows=self.rows(self.config.train.batch_size),
        )

    def eval_batches(self, split: str, params: Any = None) -> Iterator[Batch]:
        """This host's share of a split, every pair once."""
        return eval_batches(
            self.loader(split, training=False),
            batch_size=self.config.eval.batch_size,
            rows=self.rows(self.config.eval.batch_size),
        )

    @functools.cached_property
    def order(self) -> Order:
        """The order in which the training records come."""
        fields, source = self.config.data, self.source(self.config.data.split)
        weights = None
        if fields.balance:
            (task,) = select_tasks(self.tasks, [fields.balance])
            weights = class_weights(source.labels(task.name), fields.balance_power)
        chunks = getattr(source, "chunks", None)
        return Order(len(source), self.config.seed, weights, chunks)

    def view(self, training: bool) -> View:
        """How records are looked at: with what is random in training, exactly in evaluation."""
        augment, noise = self.config.data.augment, self.config.data.noise
        noisy = noise.train if training else noise.evaluate
        return View(
            augment=Augment(**augment) if training else Augment(),
            noise=Noise(noise.image, noise.text, noise.severity, noise.share) if noisy else Noise(),
            seed=self.config.seed,
        )

    def check_records(self) -> list[str]:
        """What a run must know of its records before its first step, a line each.

        Raises:
          UserError: there is nothing to learn from, or too many pictures are missing.
        """
        self._check_something()
        if not self.encode.reads_image:
            return []
        watched = self.config.eval.watch if self.config.eval.every else ""
        splits = dict.fromkeys((self.config.data.split, watched, self.last_split()))
        return [line for split in filter(None, splits) if (line := self._find_missing(split))]

    def _check_something(self) -> None:
        """Raises UserError where no record (of many) has what this run learns from."""
        split, source = self.config.data.split, self.source(self.config.data.split)
        matches = self.config.train.objective != "classification"  # pictures with words
        wanted = "matched" if matches else self.encode.inputs
        serves, lack = {
            "matched": (
                lambda i: source.text(i) and _has_image(source, i),
                "both a picture and words",
            ),
            "both": (lambda i: source.text(i) or _has_image(source, i), "a picture or words"),
            "image": (lambda i: _has_image(source, i), "a picture"),
            "text": (source.text, "words"),
        }[wanted]
        for index in spread(len(source), SAMPLED):
            with contextlib.suppress(RecordError):  # whoever loads that record will say so
                if serves(index):
                    return
        raise UserError(
            f"there is nothing to learn from: no pair of {split} has {lack}; name where "
            f"these are in data.image and data.text, or change model.inputs={self.encode.inputs!r}"
        )

    def _find_missing(self, split: str) -> str:
        """Lists the pictures of a split that are not there; a line on them, '' for none."""
        source = self.source(split)
        paths = getattr(source, "paths", ())
        seen, missing = missing_pictures(paths)
        lost = 0
        for index in missing:
            detail = f"{paths[index]}: {os.strerror(errno.ENOENT)}"
            self.bad.fault(split, source[index].id, "missing picture", detail)
            stays = self.bad.policy == "no_image" and self.encode.reads_text
            lost += not (stays and source.text(index))
        if not missing:
            return ""
        self.bad.limit(split, seen, lost, len(source))
        parts = {"stay with their words": len(missing) - lost, "are left out": lost}
        kept = ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
        return f"{len(missing):,} pictures of {seen:,} pairs of {split} are missing; {kept}"

    def texts_cut(self) -> str:
        """How many of the training texts (a sample) are cut, and the flag that takes more.

        '' where none is.
        """
        texts = list(_some_texts(self.source(self.config.data.split), 1_000))
        tokenizer, length = self.encode.tokenizer, self.encode.text_length
        share = tokenizer.share_cut(texts, length)
        if not share or not self.encode.reads_text:
            return ""
        needed = min(tokenizer.length_for(texts), self.longest or sys.maxsize)
        more = f"; a new run with --config.data.text_length={needed} reads more of them"
        cut = f"{share:.1%} of the texts are longer than {length} tokens and are cut"
        return cut + (more if needed > length else "")

    def lines(self) -> list[str]:
        """What was found, for the person who watches."""
        training = self.source(self.config.data.split)
        sizes = ", ".join(f"{len(source):,} {split}" for split, source in self.sources.items())
        tasks = ", ".join(f"{task.name} ({len(task.classes)})" for task in self.tasks)
        lines = [
            getattr(training, "description", ""),
            f"pairs: {sizes}; tasks (classes): {tasks}",
            self.texts_cut(),
        ]
        return list(filter(None, lines))


def open_data(config: ConfigDict, workdir: Path | None, towers: Towers) -> Data:
    """The data of a run; tasks and tokenizer are the workdir's, made there the first time."""
    fields = with_sizes(config, towers).data
    host = jax.process_index()
    listed = f"bad_records.{host}.jsonl" if host else "bad_records.jsonl"
    bad = BadRecords(workdir and workdir / listed, fields.on_error, fields.max_bad)
    sources = {split: source for split, source in open_sources(fields, bad).items() if len(source)}
    watched = config.eval.watch if workdir and config.eval.every else ""
    for field, split in (("data.split", fields.split), ("eval.watch", watched)):
        if split and split not in sources:
            raise UserError(f"{field}={split!r}: this data has only {', '.join(sources)}")
    tasks, tokenizer = _kept(workdir, config) or _made(
        config, workdir, sources[fields.split], towers
    )
    check_kinds(tasks, sources[fields.split])
    config = with_sizes(config, towers, tokenizer.length)
    encode = _encoder(config, tasks, tokenizer)
    longest = towers.text.length if config.model.pretrained else 0
    data = Data(config, tasks, encode, sources, bad, longest=longest)
    data.source(data.last_split())  # rather now than after the training
    return data


def kept_data(config: ConfigDict, workdir: Path, towers: Towers) -> Data:
    """What a run keeps of its data, its tasks and its tokenizer, without any records."""
    kept = _kept(workdir, config)
    if kept is None:
        raise UserError(f"{workdir} is no whole run: it lacks tasks.json or tokenizer.json")
    tasks, tokenizer = kept
    config = with_sizes(config, towers, tokenizer.length)
    encode = _encoder(config, tasks, tokenizer)
    return Data(config, tasks, encode, {}, BadRecords())


def _encoder(config: ConfigDict, tasks: tuple[Task, ...], tokenizer: Tokenizer) -> Encoder:
    """What makes batches for the model of a config whose sizes are filled in."""
    sizes = config.data.image_size, config.data.text_length
    return Encoder(tasks, tokenizer, *sizes, config.model.inputs)


def _kept(workdir: Path | None, config: ConfigDict) -> tuple[tuple[Task, ...], Tokenizer] | None:
    """The tasks and the tokenizer that a run has made already."""
    if workdir and (workdir / "tasks.json").exists() and (workdir / "tokenizer.json").exists():
        return read_tasks(workdir / "tasks.json"), run_tokenizer(workdir, config)
    return None


def _made(config: ConfigDict, workdir: Path | None, training: Source, towers: Towers):
    """Tasks and tokenizer for these records, kept in the workdir; and their text length."""
    tasks = select_tasks(training.tasks, config.data.labels)
    if not tasks and config.train.objective == "classification":
        raise UserError("this data has no task to learn; name columns in data.labels")
    texts = functools.cache(lambda: list(_some_texts(training, SAMPLED)))
    cleaning = cleaning_of(config.data)
    tokenizer = towers.tokenizer or train_tokenizer(texts(), config.data.vocabulary, cleaning)
    tokenizer.cleaning = cleaning or tokenizer.cleaning
    if config.data.text_length == -1:
        most = towers.text.length if config.model.pretrained else max(LONGEST, towers.text.length)
        tokenizer.length = min(tokenizer.length_for(texts()), most)
    if workdir:
        write_tasks(workdir / "tasks.json", tasks)
        tokenizer.save(workdir / "tokenizer.json")
    return tasks, tokenizer


def _has_image(source: Source, index: int) -> bool:
    return source[index].image is not None


def check_kinds(tasks: tuple[Task, ...], source: Source) -> None:
    """Raises UserError where one of source and run has several labels a pair, the other one."""
    names = [task.name for task in tasks]
    for task, here in zip(tasks, select_tasks(source.tasks, names), strict=True):
        if task.many != here.many:
            kind = "several labels" if task.many else "one label"
            several = ",".join(task.name for task in tasks if task.many) or "none"
            raise UserError(
                f"the run learned {task.name!r} with {kind} a pair; read this data so with "
                f"--config.data.many={several}"
            )


def _some_texts(source: Source, most: int) -> Iterator[str]:
    """Up to `most` texts, spread evenly over a source."""
    for index in spread(len(source), most):
        with contextlib.suppress(RecordError):  # whoever loads that record will say so
            text = source.text(index)
            if text:
                yield text
