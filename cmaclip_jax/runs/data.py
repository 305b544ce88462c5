"""The records of a run: its sources, and batches of any split."""

import dataclasses
import functools
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.data.augment import Augment
from cmaclip_jax.data.bad_records import BadRecords
from cmaclip_jax.data.batches import Batch, BatchEncoder
from cmaclip_jax.data.folds import divided
from cmaclip_jax.data.gathered import Gathered
from cmaclip_jax.data.noise import Noise
from cmaclip_jax.data.order import SHUFFLED_TOGETHER, Order, class_weights
from cmaclip_jax.data.pseudo import PSEUDO, PseudoRows, open_pseudo
from cmaclip_jax.data.records import Source, Sources
from cmaclip_jax.data.sources import open_sources
from cmaclip_jax.data.view import View
from cmaclip_jax.errors import UserError
from cmaclip_jax.models.encoders import LAST
from cmaclip_jax.parallel.mesh import host_rows, shared_rows
from cmaclip_jax.runs.new_encoder import encoder_for
from cmaclip_jax.runs.towers import Towers, with_sizes
from cmaclip_jax.tasks import NO_TASKS, Task, select_tasks

if TYPE_CHECKING:
    from cmaclip_jax.data.loading import Loader


@dataclasses.dataclass(frozen=True)
class RunData:
    """The records of a run. `bad` lists those that could not be used as they were.

    rows: a function from a batch size to the rows of the batch that this host makes.
    longest: the most tokens that the text encoder takes, pretrained or of one length; else 0.
    """

    config: ConfigDict
    encode: BatchEncoder
    sources: Sources
    bad: BadRecords
    rows: Callable[[int], np.ndarray] = np.arange
    longest: int = 0

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.encode.tasks

    def over(self, mesh: Mesh) -> "RunData":
        """The same data for the devices of a mesh: this host makes the rows that its own devices
        hold.

        A batch of an evaluation that does not divide over the devices becomes a smaller one,
        which changes no figure.
        """
        rows = shared_rows(mesh, self.config.eval.batch_size)
        config = with_changes(self.config, {"eval.batch_size": rows})
        return dataclasses.replace(self, config=config, rows=functools.partial(host_rows, mesh))

    def source(self, split: str) -> Source:
        """The records of a split; 'pseudo' is that of `train.pseudo`."""
        if split == PSEUDO and self.pseudo is not None:
            return self.pseudo
        if split not in self.sources:
            raise UserError(f"this data has no split {split!r}, only {', '.join(self.sources)}")
        return self.sources[split]

    @functools.cached_property
    def pseudo(self) -> PseudoRows | None:
        """The rows of `train.pseudo`, which only training reads; None without."""
        train, data = self.config.train, self.config.data
        if not train.pseudo:
            return None
        return open_pseudo(train.pseudo, train.pseudo_weight, self.sources, data, self.bad)

    @functools.cached_property
    def training_source(self) -> Source:
        """The records to learn from: those of `data.split`, and behind them those of `pseudo`."""
        own = self.source(self.config.data.split)
        return own if self.pseudo is None else Gathered([own, self.pseudo])

    def last_split(self) -> str:
        """The split that a run is judged by in the end."""
        return last_split(self.config, self.sources)

    def loader(self, split: str, training: bool) -> "Loader":
        """What reads the records of a split into batches."""
        from cmaclip_jax.data.loading import Loader  # imports TensorFlow

        view = self.view(training)
        source = self.training_source if training else self.source(split)
        return Loader(source, split, self.encode, self.bad, view, limited=training)

    def train_batches(self, start: int, params: Any = None) -> Iterator[Batch]:
        """This host's batches for step `start` and all that follow."""
        from cmaclip_jax.data.pipeline import train_batches  # imports TensorFlow

        return train_batches(
            self.loader(self.config.data.split, training=True),
            self.order,
            batch_size=self.config.train.batch_size,
            start=start,
            rows=self.rows(self.config.train.batch_size),
        )

    def eval_batches(self, split: str, params: Any = None) -> Iterator[Batch]:
        """This host's share of a split, every pair once."""
        from cmaclip_jax.data.pipeline import eval_batches  # imports TensorFlow

        return eval_batches(
            self.loader(split, training=False),
            batch_size=self.config.eval.batch_size,
            rows=self.rows(self.config.eval.batch_size),
        )

    def eval_batch_count(self, split: str) -> int:
        """The number of batches that `eval_batches` gives."""
        return -(-len(self.source(split)) // self.config.eval.batch_size)

    @functools.cached_property
    def order(self) -> Order:
        """The order in which the training records come."""
        fields, source = self.config.data, self.training_source
        weights = None
        if fields.balance:
            (task,) = select_tasks(self.tasks, [fields.balance])
            weights = class_weights(source.labels(task.name), fields.balance_power)
        chunks = getattr(source, "chunks", None)
        together = getattr(source, "together", SHUFFLED_TOGETHER)
        return Order(len(source), self.config.seed, weights, chunks, together)

    def view(self, training: bool) -> View:
        """Augmentation (in training only) and noise (where data.noise says so) of the records."""
        augment, noise = self.config.data.augment, self.config.data.noise
        noisy = noise.train if training else noise.evaluate
        return View(
            augment=Augment(**augment) if training else Augment(),
            noise=Noise(noise.image, noise.text, noise.severity, noise.share) if noisy else Noise(),
            seed=self.config.seed,
        )


def open_data(config: ConfigDict, workdir: Path | None, towers: Towers) -> RunData:
    """The data of a run; tasks and tokenizer are made once and kept in its folder."""
    fields = with_sizes(config, towers).data
    host = jax.process_index()
    listed = f"bad_records.{host}.jsonl" if host else "bad_records.jsonl"
    bad = BadRecords(workdir and workdir / listed, fields.on_error, fields.max_bad)
    sources = {split: source for split, source in open_sources(fields, bad).items() if len(source)}
    if fields.folds:
        sources = divided(sources, fields.folds, fields.fold)
    during = config.eval.watch if workdir and config.eval.every else ""
    for field, split in (("data.split", fields.split), ("eval.watch", during)):
        if split and split not in sources:
            raise UserError(f"{field}={split!r}: this data has only {', '.join(sources)}")
    encode = encoder_for(config, workdir, towers, sources[fields.split])
    check_kinds(encode.tasks, sources[fields.split])
    config = with_sizes(config, towers, encode.tokenizer.length)
    limited = config.model.pretrained or towers.text.pooling == LAST
    longest = towers.text.length if limited else 0
    data = RunData(config, encode, sources, bad, longest=longest)
    data.source(data.last_split())  # a missing split is an error before the training, not after
    return data


def last_split(config: ConfigDict, splits: Container[str]) -> str:
    """The split that a run is judged by in the end, of data with these splits."""
    return config.eval.split or ("test" if "test" in splits else "val")


def check_kinds(tasks: tuple[Task, ...], source: Source) -> None:
    """Raises UserError where run and source disagree on whether a pair has several labels."""
    names = [task.name for task in tasks] or [NO_TASKS]
    for task, here in zip(tasks, select_tasks(source.tasks, names), strict=True):
        if task.many != here.many:
            kind = "several labels" if task.many else "one label"
            several = ",".join(task.name for task in tasks if task.many) or "none"
            raise UserError(
                f"the run learned {task.name!r} with {kind} a pair; read this data so with "
                f"--config.data.many={several}"
            )
