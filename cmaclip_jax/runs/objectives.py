"""The network and the objective (loss and answers) of a config, for the data of a run."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.errors import UserError
from cmaclip_jax.models import (
    CLIP,
    Classification,
    CMAClip,
    Contrastive,
    Objective,
    SequenceAttention,
)
from cmaclip_jax.runs.towers import Towers, sized_encoders
from cmaclip_jax.tasks import Task


def build_objective(config: ConfigDict, encode: BatchEncoder, towers: Towers) -> Objective:
    """The objective that a config describes, for these tasks."""
    if config.train.objective != "classification":
        return build_contrastive(config, encode, towers)
    both = config.model.inputs == "both"
    return Classification(
        model=build_model(config, encode, towers),
        tasks=encode.tasks,
        task_weights=tuple(_of_known_tasks(config.train, "task_weights", encode.tasks)),
        class_weights=tuple(_of_known_tasks(config.train, "class_weights", encode.tasks)),
        label_smoothing=config.train.label_smoothing,
        contrastive=config.train.contrastive if both else 0.0,
        drop_modality=config.train.drop_modality if both else 0.0,
    )


def build_contrastive(config: ConfigDict, encode: BatchEncoder, towers: Towers) -> Contrastive:
    """CLIP itself, which classifies by the sentences in `eval.prompts`."""
    image, text, _ = sized_encoders(config, towers, encode)
    return Contrastive(
        model=CLIP(image, text, bias=config.train.objective == "sigmoid"),
        tasks=encode.tasks,
        prompts={
            task.name: _prompt_tokens(config.eval.prompts, task, encode) for task in encode.tasks
        },
        kind=config.train.objective if config.train.objective == "sigmoid" else "softmax",
        inputs=config.model.inputs,
    )


def _prompt_tokens(templates: tuple[str, ...], task: Task, encode: BatchEncoder) -> np.ndarray:
    """The sentences of all classes as tokens [C,K,T]. A sentence that would be cut is an error."""
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
    """The sentences about a class. `{}` is the class and `{task}` the task, `_` becomes a space."""
    words = name.replace("_", " ")
    return [
        template.replace("{task}", task.name.replace("_", " ")).replace("{}", words)
        for template in templates
    ]


def _of_known_tasks(settings: ConfigDict, name: str, tasks: tuple[Task, ...]) -> Iterator[tuple]:
    """The (task, value) pairs of a field of config.train, checked against the run's tasks."""
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


def sequence_heads(wanted: int, width: int, encoder_head_width: int) -> int:
    """The number of heads that `model.sequence_heads` means for layers of this width.

    -1: heads as wide as the text encoder's. 0: heads 64 wide.
    """
    if wanted > 0:
        return wanted
    return math.ceil(width / (encoder_head_width if wanted == -1 else 64))


def build_model(config: ConfigDict, encode: BatchEncoder, towers: Towers) -> CMAClip:
    """The network of a config, for these tasks and this vocabulary."""
    fields = config.model
    image, text, how = sized_encoders(config, towers, encode)
    width = fields.sequence_width or image.projection
    if image.projection != text.projection:
        raise UserError(
            f"model.image={fields.image!r} and model.text={fields.text!r} do not share a width; "
            "name the same size in both"
        )
    heads = sequence_heads(fields.sequence_heads, width, text.width // text.heads)
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
        tasks=tuple((task.name, len(task.classes)) for task in encode.tasks),
        modality=fields.modality,
        modality_per_modality=fields.modality_per_modality,
        head_layers=fields.head_layers,
        head_width=fields.head_width,
        head_dropout=fields.dropout,
        dtype=how["dtype"],
    )
