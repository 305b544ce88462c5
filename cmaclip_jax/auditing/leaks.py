"""Leaks: rows of a judged split whose twins are in the training split.

A model may remember the answers to such rows. So the run on the splits as given is judged with
these rows and without them.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cmaclip_jax.config import with_changes
from cmaclip_jax.evaluation.decisions import only_known
from cmaclip_jax.evaluation.metrics import task_metrics
from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.studies.framework import StudyRun
from cmaclip_jax.tasks import Task

GIVEN = "as-given"  # the folder of the run on the splits as given


@dataclasses.dataclass(frozen=True)
class Given:
    """The arm of the run on the splits as given."""

    name: str = GIVEN


def given_run(config: ConfigDict, workdir: Path, split: str) -> StudyRun[Given]:
    """The run on the splits as given, judged by `split`."""
    changed = with_changes(config, {"eval.split": split})
    return StudyRun(Given(), config.seed, changed, workdir / GIVEN)


def accuracies_without(
    tasks: Sequence[Task], outcome: Outcome, leaked: np.ndarray
) -> dict[str, tuple[float, float]]:
    """The accuracy of each task on all rows of a split, and on those that are not leaked.

    leaked: which rows of the split are leaked.
    """
    stays = ~leaked[outcome["row"]]
    accuracies = {}
    for task in tasks:
        probabilities, labels = outcome["probabilities"][task.name], outcome["labels"][task.name]
        if len(only_known(probabilities[stays], labels[stays], task.many)[1]):
            both = (slice(None), stays)
            every, rest = (
                task_metrics(probabilities[rows], labels[rows], task)["accuracy"] for rows in both
            )
            accuracies[task.name] = every, rest
    return accuracies
