"""From a config to the parts of a run: the one place that knows both data and models."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.data.pipeline import Encoder, eval_batches, train_batches
from cmaclip_jax.data.records import Source
from cmaclip_jax.data.sources import open_source
from cmaclip_jax.data.text import Tokenizer, train_tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.models import (
    CLIP,
    Classification,
    CMAClip,
    Contrastive,
    Objective,
    SequenceAttention,
)
from cmaclip_jax.tasks import Task, read_tasks, select_tasks, write_tasks
from cmaclip_jax.towers import Towers, sized_encoders, with_sizes


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

    def share_cut(self) -> float:
        """The share of the training texts that are longer than `data.text_length` (a sample)."""
        texts = list(_some_texts(self.source(self.config.data.split), 1_000))
        return self.encode.tokenizer.share_cut(texts, self.encode.text_length)

    def eval_batches(self, split: str) -> Iterator:
        """This host's share of a split, every pair once."""
        return eval_batches(
            self.source(split),
            self.encode,
            batch_size=self.config.eval.batch_size,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )


def open_data(config: ConfigDict, workdir: Path | None, towers: Towers) -> Data:
    """The data of a run; tasks and tokenizer are the workdir's, made there the first time."""
    config = with_sizes(config, towers)
    source = functools.cache(functools.partial(open_source, config.data))
    tasks_file, tokenizer_file = (
        (workdir / "tasks.json", workdir / "tokenizer.json") if workdir else (None, None)
    )
    if tasks_file and tasks_file.exists() and tokenizer_file.exists():
        tasks, tokenizer = read_tasks(tasks_file), Tokenizer.load(tokenizer_file)
    else:
        training = source(config.data.split)
        tasks = select_tasks(training.tasks, config.data.labels)
        tokenizer = towers.tokenizer or train_tokenizer(
            _some_texts(training, 20_000), config.data.vocabulary
        )
        if workdir:
            write_tasks(tasks_file, tasks)
            tokenizer.save(tokenizer_file)
    encode = Encoder(tasks, tokenizer, config.data.image_size, config.data.text_length)
    return Data(config, tasks, encode, source)


def build_objective(config: ConfigDict, data: Data, towers: Towers) -> Objective:
    """The model and the loss that a config describes, for these tasks."""
    if config.train.objective != "classification":
        return build_contrastive(config, data, towers)
    return Classification(
        model=build_model(config, data, towers),
        tasks=data.tasks,
        task_weights=tuple(_of_known_tasks(config.train, "task_weights", data.tasks)),
        class_weights=tuple(_of_known_tasks(config.train, "class_weights", data.tasks)),
        label_smoothing=config.train.label_smoothing,
        contrastive=config.train.contrastive if config.model.inputs == "both" else 0.0,
    )


def build_contrastive(config: ConfigDict, data: Data, towers: Towers) -> Contrastive:
    """CLIP itself, which classifies by the sentences of `eval.prompts`."""
    image, text, _ = sized_encoders(data.config, towers, data.encode.tokenizer)
    return Contrastive(
        model=CLIP(image, text, bias=config.train.objective == "sigmoid"),
        tasks=data.tasks,
        prompts={
            task.name: _prompt_tokens(config.eval.prompts, task, data.encode) for task in data.tasks
        },
        kind=config.train.objective if config.train.objective == "sigmoid" else "softmax",
        inputs=config.model.inputs,
    )


def _prompt_tokens(templates: tuple[str, ...], task: Task, encode: Encoder) -> np.ndarray:
    """Every class's sentences as tokens [C,K,T]; none may be cut, its class may stand last."""
    sentences = [prompts(templates, task, name) for name in task.classes]
    tokenize, length = encode.tokenizer, encode.text_length
    for sentence in itertools.chain.from_iterable(sentences):
        if tokenize.share_cut([sentence], length):
            raise UserError(
                f"{sentence!r} (eval.prompts) is longer than data.text_length={length} tokens; "
                "raise the one or shorten the other"
            )
    return np.stack([tokenize(some, length) for some in sentences])


def prompts(templates: tuple[str, ...], task: Task, name: str) -> list[str]:
    """The sentences about a class: {} is its name, {task} its task's, underscores spaces."""
    words = name.replace("_", " ")
    return [
        template.replace("{task}", task.name.replace("_", " ")).replace("{}", words)
        for template in templates
    ]


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


def build_model(config: ConfigDict, data: Data, towers: Towers) -> CMAClip:
    """The network of a config, for these tasks and this vocabulary."""
    fields = config.model
    image, text, how = sized_encoders(data.config, towers, data.encode.tokenizer)
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
        tasks=tuple((task.name, len(task.classes)) for task in data.tasks),
        modality=fields.modality,
        modality_per_modality=fields.modality_per_modality,
        head_layers=fields.head_layers,
        head_width=fields.head_width,
        head_dropout=fields.dropout,
        dtype=how["dtype"],
    )


def _some_texts(source: Source, most: int) -> Iterator[str]:
    """Up to `most` texts, spread evenly over a source."""
    for index in range(0, len(source), max(1, len(source) // most)):
        text = source[index].text
        if text:
            yield text
