"""From a config to the parts of a run: the one place that knows both data and models."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cmaclip_jax.data.pipeline import Encoder, eval_batches, train_batches
from cmaclip_jax.data.records import Source
from cmaclip_jax.data.sources import open_source
from cmaclip_jax.data.text import Tokenizer, train_tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.models import (
    Classification,
    CMAClip,
    SequenceAttention,
    image_encoder,
    text_encoder,
)
from cmaclip_jax.tasks import Task, read_tasks, select_tasks, write_tasks


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads: its tasks, its tokenizer, and batches of any split."""

    config: ConfigDict
    tasks: tuple[Task, ...]
    encode: Encoder
    source: Callable[[str], Source]  # by split; opened once each

    def train_batches(self, start: int) -> Iterator:
        """This host's batches for step `start` and all that follow."""
        return train_batches(
            self.source(self.config.data.split),
            self.encode,
            batch_size=self.config.train.batch_size,
            seed=self.config.seed,
            start=start,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )

    def eval_batches(self, split: str) -> Iterator:
        """This host's share of a split, every pair once."""
        return eval_batches(
            self.source(split),
            self.encode,
            batch_size=self.config.eval.batch_size,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )


def open_data(config: ConfigDict, workdir: Path) -> Data:
    """The data of a run; tasks and tokenizer are the workdir's, made there the first time."""
    config = _with_sizes(config)
    source = functools.cache(functools.partial(open_source, config.data))
    tasks_file, tokenizer_file = workdir / "tasks.json", workdir / "tokenizer.json"
    if tasks_file.exists() and tokenizer_file.exists():
        tasks, tokenizer = read_tasks(tasks_file), Tokenizer.load(tokenizer_file)
    else:
        training = source(config.data.split)
        tasks = select_tasks(training.tasks, config.data.labels)
        tokenizer = train_tokenizer(_some_texts(training), config.data.vocabulary)
        write_tasks(tasks_file, tasks)
        tokenizer.save(tokenizer_file)
    encode = Encoder(tasks, tokenizer, config.data.image_size, config.data.text_length)
    return Data(config, tasks, encode, source)


def build_objective(config: ConfigDict, data: Data) -> Classification:
    """The model and the loss that a config describes, for these tasks."""
    return Classification(
        model=build_model(config, data.tasks, data.encode.tokenizer),
        tasks=data.tasks,
        task_weights=tuple(_of_known_tasks(config.train, "task_weights", data.tasks)),
        class_weights=tuple(_of_known_tasks(config.train, "class_weights", data.tasks)),
        label_smoothing=config.train.label_smoothing,
        contrastive=config.train.contrastive if config.model.inputs == "both" else 0.0,
    )


def _of_known_tasks(settings: ConfigDict, name: str, tasks: tuple[Task, ...]) -> Iterator[tuple]:
    """The (task, value) pairs of a field, checked against the tasks that there are."""
    known = {task.name: task for task in tasks}
    for task, value in settings[name]:
        if task not in known:
            raise UserError(f"unknown task {task!r} in train.{name}; this run has {list(known)}")
        if name == "class_weights" and len(value) != len(known[task].classes):
            raise UserError(
                f"train.class_weights gives {len(value)} numbers to {task!r}, "
                f"which has {len(known[task].classes)} classes"
            )
        yield task, value


def build_model(config: ConfigDict, tasks: tuple[Task, ...], tokenizer: Tokenizer) -> CMAClip:
    """The network of a config, for these tasks and this vocabulary."""
    config = _with_sizes(config)
    fields = config.model
    how = dict(unroll=fields.unroll, remat=fields.remat, dtype=_compute_dtype(fields.dtype))
    image = image_encoder(fields.image, image_size=config.data.image_size, **how)
    text = text_encoder(
        fields.text,
        vocabulary=tokenizer.vocabulary,
        length=config.data.text_length,
        end_token=tokenizer.end,
        **how,
    )
    width = fields.sequence_width or image.projection
    if image.projection != text.projection:
        raise UserError(
            f"model.image={fields.image!r} and model.text={fields.text!r} do not share a width; "
            "name the same size in both"
        )
    heads = fields.sequence_heads or math.ceil(width / 64)
    if width % heads:
        raise UserError(f"model.sequence_heads={heads} does not divide the width {width}")
    return CMAClip(
        image=None if fields.inputs == "text" else image,
        text=None if fields.inputs == "image" else text,
        sequence=SequenceAttention(
            layers=fields.sequence_layers,
            width=fields.sequence_width,
            heads=heads,
            dropout=fields.dropout,
            zero_output=fields.sequence_zero,
            **how,
        ),
        tasks=tuple((task.name, len(task.classes)) for task in tasks),
        modality=fields.modality,
        modality_per_modality=fields.modality_per_modality,
        head_layers=fields.head_layers,
        head_width=fields.head_width,
        head_dropout=fields.dropout,
        dtype=how["dtype"],
    )


def _with_sizes(config: ConfigDict) -> ConfigDict:
    """The config with `data.image_size` and `data.text_length` filled in from the encoders."""
    config = config.copy_and_resolve_references()
    image, text = image_encoder(config.model.image), text_encoder(config.model.text)
    config.data.image_size = config.data.image_size or image.image_size
    config.data.text_length = config.data.text_length or text.length
    size = config.data.image_size
    if size % image.patch_size:
        multiple = max(size // image.patch_size, 1) * image.patch_size
        raise UserError(
            f"data.image_size={size} does not divide into patches of {image.patch_size}; "
            f"use {multiple} or {multiple + image.patch_size}"
        )
    return config


def _compute_dtype(name: str):
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def _some_texts(source: Source, most: int = 20_000) -> Iterator[str]:
    """Texts spread evenly over a source, enough to learn a vocabulary from."""
    for index in range(0, len(source), max(1, len(source) // most)):
        text = source[index].text
        if text:
            yield text
