"""The answers of models that have not seen a record, calibrated and joined over modalities."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cmaclip_jax.evaluation.decisions import only_known
from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.evaluation.temperature import scale
from cmaclip_jax.evaluation.temperature_fit import fit_temperature
from cmaclip_jax.tasks import Task

WHOLE_WEIGHT, ALONE_WEIGHT = 2, 1  # of the answers to a whole pair, and to one modality alone


@dataclasses.dataclass(frozen=True)
class UnseenAnswers:
    """The answers to all records that could be read [N].

    row: the number of the record among all records.
    probabilities: {task: [N,C]}, calibrated.
    labels: {task: [N], of a many-label task [N,C]}; negative is unknown.
    fold: the number of the record's fold.
    """

    row: np.ndarray
    probabilities: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    fold: np.ndarray


def join_answers(
    tasks: Sequence[Task], whole: Outcome, alone: dict[str, Outcome], folds: np.ndarray
) -> UnseenAnswers:
    """The mean of the calibrated answers to whole pairs and to one modality alone.

    A modality alone counts for the pairs that have both. For most tasks, the mean finds wrong
    labels better than the answer to the whole pair does.

    whole, alone: outcomes of the same records, all in one order; `alone` by modality.
    folds: the number of each record's fold.
    """
    both = (whole["has_image"] > 0) & (whole["has_text"] > 0)
    return UnseenAnswers(
        whole["row"],
        {task.name: _joined(task, whole, alone.values(), both) for task in tasks},
        {task.name: whole["labels"][task.name] for task in tasks},
        folds[whole["row"]],
    )


def _joined(task: Task, whole: Outcome, alone, both: np.ndarray) -> np.ndarray:
    labels = whole["labels"][task.name]
    total = WHOLE_WEIGHT * _calibrated(task, whole, labels)
    weight = np.full(len(both), WHOLE_WEIGHT, float)
    for outcome in alone:
        total += np.where(both[:, None], ALONE_WEIGHT * _calibrated(task, outcome, labels), 0)
        weight += ALONE_WEIGHT * both
    return total / weight[:, None]


def _calibrated(task: Task, outcome: Outcome, labels: np.ndarray) -> np.ndarray:
    """The probabilities at the temperature that fits them to the labels, float64 [N,C]."""
    probabilities = outcome["probabilities"][task.name]
    temperature = fit_temperature(*only_known(probabilities, labels, task.many), task.many)
    return scale(probabilities, temperature, task.many).astype(np.float64)


def classes_to_judge(task: Task, answers: UnseenAnswers) -> np.ndarray:
    """The classes that are known in several folds, bool [C].

    The model of a fold has never seen a class that lies in this fold alone, so it cannot judge it.
    """
    labels = answers.labels[task.name]
    of_class = labels > 0 if task.many else labels[:, None] == np.arange(len(task.classes))
    folds = [of_class[answers.fold == fold].any(axis=0) for fold in np.unique(answers.fold)]
    return np.sum(folds, axis=0) > 1
