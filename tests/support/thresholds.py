"""Thresholds for a finished run, chosen on its own test split."""

import dataclasses
import shutil
from pathlib import Path

from cmaclip_jax.evaluation.result_files import read_outcome
from cmaclip_jax.evaluation.threshold_choice import calibrate
from cmaclip_jax.evaluation.thresholds import write_thresholds
from cmaclip_jax.tasks import read_tasks


def copy_with_thresholds(finished_run: Path, folder: Path, precision: float, **fields: int) -> Path:
    """A copy of the run in `folder`, with thresholds; `fields` replace those of every task."""
    shutil.copytree(finished_run, folder)
    outcome = read_outcome(folder, "test")
    sure, right = outcome["probabilities"], outcome["labels"]
    chosen = [
        calibrate(task, sure[task.name], right[task.name], precision)
        for task in read_tasks(folder / "tasks.json")
    ]
    write_thresholds(
        folder / "thresholds.json", [dataclasses.replace(task, **fields) for task in chosen]
    )
    return folder
