"""The batch encoder of a new run: its tasks and its tokenizer, made from its records."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.missing import spread
from cmaclip_jax.data.records import RecordError, Source
from cmaclip_jax.data.sources import cleaning_of
from cmaclip_jax.data.text import train_tokenizer, with_cleaning
from cmaclip_jax.errors import UserError
from cmaclip_jax.runs.batch_encoder import TASKS, TOKENIZER, read_parts, sized_encoder
from cmaclip_jax.runs.towers import Towers
from cmaclip_jax.tasks import select_tasks, write_tasks

SAMPLED_TEXTS = 20_000  # texts that train a tokenizer and determine the text length
LONGEST = 77  # the most tokens that `data.text_length=-1` chooses without pretrained weights


def encoder_for(
    config: ConfigDict, workdir: Path | None, towers: Towers, training: Source
) -> BatchEncoder:
    """The batch encoder that a run keeps in its folder, or a new one made from its records."""
    parts = workdir and read_parts(workdir, config)
    tasks, tokenizer = parts or _make(config, workdir, training, towers)
    return sized_encoder(config, tasks, tokenizer, towers)


def some_texts(source: Source, most: int) -> Iterator[str]:
    """Up to `most` texts, spread evenly over a source."""
    for index in spread(len(source), most):
        with contextlib.suppress(RecordError):  # loading that record will report the error
            text = source.text(index)
            if text:
                yield text


def _make(config: ConfigDict, workdir: Path | None, training: Source, towers: Towers):
    """Tasks and tokenizer for these records, written into the run's folder."""
    tasks = select_tasks(training.tasks, config.data.labels)
    if not tasks and config.train.objective == "classification":
        raise UserError("this data has no task to learn; name columns in data.labels")
    texts = functools.cache(lambda: list(some_texts(training, SAMPLED_TEXTS)))
    cleaning = cleaning_of(config.data)
    tokenizer = towers.tokenizer or train_tokenizer(texts(), config.data.vocabulary, cleaning)
    tokenizer.cleaning = with_cleaning(cleaning, tokenizer.cleaning)
    if config.data.text_length == -1:
        most = towers.text.length if config.model.pretrained else max(LONGEST, towers.text.length)
        tokenizer.length = min(tokenizer.length_for(texts()), most)
    if workdir:
        write_tasks(workdir / TASKS, tasks)
        tokenizer.save(workdir / TOKENIZER)
    return tasks, tokenizer
