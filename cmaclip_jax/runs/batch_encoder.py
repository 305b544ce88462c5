"""What a run keeps of its data: tasks, tokenizer and sizes, by which pairs become batches.

A trained run answers with these alone. Nothing that is imported here needs TensorFlow.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.missing import spread
from cmaclip_jax.data.records import RecordError, Source
from cmaclip_jax.data.sources import cleaning_of
from cmaclip_jax.data.text import Tokenizer, train_tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.runs.towers import Towers, run_tokenizer, with_sizes
from cmaclip_jax.tasks import Task, read_tasks, select_tasks, write_tasks

TASKS, TOKENIZER = "tasks.json", "tokenizer.json"
SAMPLED_TEXTS = 20_000  # texts that train a tokenizer and determine the text length
LONGEST = 77  # the most tokens that `data.text_length=-1` chooses without pretrained weights


def kept_encoder(config: ConfigDict, workdir: Path, towers: Towers) -> BatchEncoder:
    """The batch encoder of a trained run, from the files in its folder."""
    kept = _read(workdir, config)
    if kept is None:
        raise UserError(f"{workdir} is no whole run: it lacks {TASKS} or {TOKENIZER}")
    return _sized(config, *kept, towers)


def encoder_for(
    config: ConfigDict, workdir: Path | None, towers: Towers, training: Source
) -> BatchEncoder:
    """The batch encoder that a run keeps in its folder, or a new one made from its records."""
    kept = workdir and _read(workdir, config)
    tasks, tokenizer = kept or _make(config, workdir, training, towers)
    return _sized(config, tasks, tokenizer, towers)


def some_texts(source: Source, most: int) -> Iterator[str]:
    """Up to `most` texts, spread evenly over a source."""
    for index in spread(len(source), most):
        with contextlib.suppress(RecordError):  # loading that record will report the error
            text = source.text(index)
            if text:
                yield text


def _sized(
    config: ConfigDict, tasks: tuple[Task, ...], tokenizer: Tokenizer, towers: Towers
) -> BatchEncoder:
    sizes = with_sizes(config, towers, tokenizer.length).data
    return BatchEncoder(tasks, tokenizer, sizes.image_size, sizes.text_length, config.model.inputs)


def _read(workdir: Path, config: ConfigDict) -> tuple[tuple[Task, ...], Tokenizer] | None:
    """The tasks and the tokenizer in a run's folder; None where the run has not made them yet."""
    if (workdir / TASKS).exists() and (workdir / TOKENIZER).exists():
        return read_tasks(workdir / TASKS), run_tokenizer(workdir, config)
    return None


def _make(config: ConfigDict, workdir: Path | None, training: Source, towers: Towers):
    """Tasks and tokenizer for these records, written into the run's folder."""
    tasks = select_tasks(training.tasks, config.data.labels)
    if not tasks and config.train.objective == "classification":
        raise UserError("this data has no task to learn; name columns in data.labels")
    texts = functools.cache(lambda: list(some_texts(training, SAMPLED_TEXTS)))
    cleaning = cleaning_of(config.data)
    tokenizer = towers.tokenizer or train_tokenizer(texts(), config.data.vocabulary, cleaning)
    tokenizer.cleaning = cleaning or tokenizer.cleaning
    if config.data.text_length == -1:
        most = towers.text.length if config.model.pretrained else max(LONGEST, towers.text.length)
        tokenizer.length = min(tokenizer.length_for(texts()), most)
    if workdir:
        write_tasks(workdir / TASKS, tasks)
        tokenizer.save(workdir / TOKENIZER)
    return tasks, tokenizer
