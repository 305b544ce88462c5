"""Pushed runs: the files of a run that answers and no longer learns, in a folder or on the hub."""

import re
from pathlib import Path

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.thresholds import THRESHOLDS
from cmaclip_jax.runs.batch_encoder import TASKS, TOKENIZER
from cmaclip_jax.training.saved_parameters import PUSHED
from cmaclip_jax.weights.description import DESCRIPTION
from cmaclip_jax.weights.hub import HUB_NAME, hub_folder

CONFIG = "config.json"
# Copied from the run's folder where it has them; its config and its parameters are written anew.
COPIED = (TASKS, TOKENIZER, DESCRIPTION, THRESHOLDS, "version.txt")
FIGURES = "evaluation/*.json"
FILES = (CONFIG, PUSHED, *COPIED, FIGURES)  # patterns of everything that is read of a pushed run
HUB = re.compile(rf"hf:/+({HUB_NAME.pattern})(?:@([\w./-]+))?")


def local_run(name: str | Path) -> Path:
    """The folder of the run at `name`, which is a folder or hf://ORG/NAME[@REVISION].

    A run on the hub is downloaded into the hub's own cache, and read there when the hub cannot be
    reached. Callers must not write into that folder.
    """
    if not re.match("hf:/", str(name)):
        return Path(name)
    found = HUB.fullmatch(str(name))
    if not found:
        raise UserError(f"{name} names no run; write hf://ORG/NAME or hf://ORG/NAME@REVISION")

    def wanted(files: list[str] | None) -> tuple[str, ...]:
        if files is not None and not {CONFIG, PUSHED, TASKS} <= {*files}:
            raise UserError(f"{name} holds no run that `cmaclip push` wrote; name another")
        return FILES

    return hub_folder(found[1], wanted, found[2])
