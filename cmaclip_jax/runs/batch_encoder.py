"""The batch encoder of a trained run, from the tasks and the tokenizer that its folder keeps.

A trained run answers with these alone. Nothing that is imported here needs TensorFlow.
"""

from pathlib import Path

from ml_collections import ConfigDict

from cmaclip_jax.data.batches import BatchEncoder
from cmaclip_jax.data.text import Tokenizer
from cmaclip_jax.errors import UserError
from cmaclip_jax.runs.towers import Towers, run_tokenizer, with_sizes
from cmaclip_jax.tasks import Task, read_tasks

TASKS, TOKENIZER = "tasks.json", "tokenizer.json"


def kept_encoder(config: ConfigDict, workdir: Path, towers: Towers) -> BatchEncoder:
    """The batch encoder of a trained run, from the files in its folder."""
    try:
        parts = read_parts(workdir, config)
    except UserError:
        raise
    except Exception as error:  # a file that others wrote may fail in any way
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{TASKS} or {TOKENIZER} in {workdir} cannot be read ({what})") from error
    if parts is None:
        raise UserError(f"{workdir} is no whole run: it lacks {TASKS} or {TOKENIZER}")
    return sized_encoder(config, *parts, towers)


def sized_encoder(
    config: ConfigDict, tasks: tuple[Task, ...], tokenizer: Tokenizer, towers: Towers
) -> BatchEncoder:
    """The batch encoder with these parts, at the picture size and text length of the config."""
    sizes = with_sizes(config, towers, tokenizer.length).data
    return BatchEncoder(tasks, tokenizer, sizes.image_size, sizes.text_length, config.model.inputs)


def read_parts(workdir: Path, config: ConfigDict) -> tuple[tuple[Task, ...], Tokenizer] | None:
    """The tasks and the tokenizer in a run's folder; None if the run has not made them yet."""
    if (workdir / TASKS).exists() and (workdir / TOKENIZER).exists():
        return read_tasks(workdir / TASKS), run_tokenizer(workdir, config)
    return None
