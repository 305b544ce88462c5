"""The files of an evaluation in a run's folder: figures in SPLIT.json, outcomes in SPLIT.npz."""

import json
import re
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.files import whole_file, write_text


def score_file(workdir: str | Path, split: str) -> Path:
    """The file that holds the figures of a split."""
    return Path(workdir) / "evaluation" / f"{split}.json"


def outcome_file(workdir: str | Path, split: str) -> Path:
    """The file that holds the outcome of a split: arrays, named by their paths in the outcome."""
    return Path(workdir) / "evaluation" / f"{split}.npz"


def write_outcome(workdir: str | Path, split: str, outcome: Outcome) -> Path:
    """Writes the outcome of a split."""
    path = outcome_file(workdir, split)
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as part:
        np.savez_compressed(part, **flatten_dict(outcome, sep="/"))
    return path


def read_outcome(workdir: str | Path, split: str) -> Outcome:
    """The outcome that `write_outcome` wrote."""
    path = outcome_file(workdir, split)
    try:
        with np.load(path) as arrays:
            return unflatten_dict(dict(arrays), sep="/")
    except (OSError, ValueError) as error:
        raise _unreadable(path, workdir, split) from error


def write_score(workdir: str | Path, figures: dict) -> Path:
    """Writes the figures of a split."""
    path = score_file(workdir, figures["split"])
    path.parent.mkdir(exist_ok=True)
    write_text(path, _one_line_lists(json.dumps(figures, indent=2)) + "\n")
    return path


def read_score(workdir: str | Path, split: str) -> dict:
    """The figures that `write_score` wrote; empty if the file is missing."""
    path = score_file(workdir, split)
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text()) | {"split": split}
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, workdir, split) from error


def _unreadable(path: Path, workdir: str | Path, split: str) -> UserError:
    again = f"`cmaclip evaluate --workdir={workdir} --split={split}`"
    return UserError(f"{path} cannot be read; make it with {again}")


def _one_line_lists(text: str) -> str:
    """Indented JSON in which each list of whole numbers, such as a matrix row, is on one line."""
    return re.sub(
        r"\[\n[\s\d,]+\]", lambda match: "[" + ", ".join(re.findall(r"\d+", match[0])) + "]", text
    )
