"""The decisions of a model, defined once: known rows, decided classes, confidence, correctness.

A task's `probabilities` are [N,C]. Its `labels` are [N], or [N,C] if the task has many labels; a
negative label is unknown. A row of a many-label task is known if the labels of all its classes are.

A one-label task decides for its most probable class; of equal ones, for the first. A many-label
task makes one decision per class: "yes" if its probability is above 0.5.
"""

import dataclasses

import numpy as np

from cmaclip_jax.evaluation.temperature import scale
from cmaclip_jax.tasks import Task

YES = 0.5


@dataclasses.dataclass(frozen=True)
class Decisions:
    """The decisions of a task on its known rows, flat [K].

    One-label task: one decision per row, for the most probable class.
    Many-label task: one decision per row and class, always "yes" with confidence P(yes). It is
        correct if the label is "yes". A threshold says whether it is accepted.

    row: the row of `probabilities`.
    place: the index of the class.
    truth: the true class; of many-label tasks 1 or 0.
    confidence: the probability of the decision.
    correct: whether it is right, bool.
    support: [C], the known rows in which each class is true.
    """

    row: np.ndarray
    place: np.ndarray
    truth: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    support: np.ndarray

    @property
    def positives(self) -> int:
        """The denominator of recall: the known rows, or of many-label tasks all true "yes"."""
        return int(self.support.sum())


def decisions(
    task: Task, probabilities: np.ndarray, labels: np.ndarray, temperature: float | None = None
) -> Decisions:
    """The decisions of a task; their confidence is scaled by `temperature`, if given.

    The temperature changes no decision, even if scaled probabilities become equal by rounding.
    """
    rows = np.flatnonzero(known_rows(labels, task.many))
    probabilities, labels = probabilities[rows], labels[rows].astype(int)
    scaled = probabilities
    if temperature is not None:
        scaled = scale(probabilities, temperature, task.many)
    classes = probabilities.shape[-1]
    truth = true_classes(labels, classes, task.many)
    support = truth.sum(axis=0)
    if task.many:
        row, place = np.repeat(rows, classes), np.tile(np.arange(classes), len(rows))
        return Decisions(row, place, labels.ravel(), scaled.ravel(), truth.ravel(), support)
    place = most_probable(probabilities)
    return Decisions(rows, place, labels, scaled.max(axis=-1), place == labels, support)


def known_rows(labels: np.ndarray, many: bool) -> np.ndarray:
    """Which rows are known, bool [N]."""
    return labels.min(axis=-1) >= 0 if many else labels >= 0


def only_known(probabilities, labels, many: bool) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities and the integer labels of the known rows."""
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    known = known_rows(labels, many)
    return probabilities[known], labels[known].astype(int)


def decided_classes(probabilities: np.ndarray, many: bool) -> np.ndarray:
    """The classes that are decided for, bool [N,C]."""
    if many:
        return probabilities > YES
    return np.arange(probabilities.shape[-1]) == most_probable(probabilities)[:, None]


def true_classes(labels: np.ndarray, classes: int, many: bool) -> np.ndarray:
    """The classes that are true, bool [N,C]; none in unknown rows of one-label tasks."""
    return labels > 0 if many else np.arange(classes) == labels[:, None]


def most_probable(probabilities: np.ndarray) -> np.ndarray:
    """The most probable class of each row [N], the first one if several are equal."""
    return probabilities.argmax(axis=-1)
