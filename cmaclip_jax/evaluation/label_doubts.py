"""Which known labels are probably wrong, judged by answers of models that have not seen them.

Confident learning (Northcutt et al. 2021): a model answers with class j confidently if P(j) is at
least the mean P(j) of the rows that are labelled j. A label is called likely wrong if the row is
confidently of another class. The doubt about a label is 1 minus its probability. It ranks labels
that were changed at random better than the margin to the most probable class does.
"""

import dataclasses

import numpy as np

from cmaclip_jax.evaluation.decisions import known_rows, only_known
from cmaclip_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class LabelDoubts:
    """The doubts about the labels of a task, flat [K].

    One-label task: one for each known row, against its class.
    Many-label task: one for each class of each known row, against its "yes" or "no".

    row: the row of the probabilities.
    label, suggestion: indices of classes; of many-label tasks 1 or 0.
    place: the index of the class that is doubted.
    label_probability, suggestion_probability: of either.
    likely: whether confident learning calls the label wrong, bool.
    """

    row: np.ndarray
    place: np.ndarray
    label: np.ndarray
    suggestion: np.ndarray
    label_probability: np.ndarray
    suggestion_probability: np.ndarray
    likely: np.ndarray

    @property
    def doubt(self) -> np.ndarray:
        """The larger, the more probably the label is wrong."""
        return 1 - self.label_probability


def label_doubts(task: Task, probabilities: np.ndarray, labels: np.ndarray) -> LabelDoubts:
    """The doubts about all known labels of a task.

    probabilities: [N,C], calibrated, of models that have not learned from their row.
    labels: [N], or [N,C] of a many-label task; a negative label is unknown.
    """
    row = np.flatnonzero(known_rows(labels, task.many))
    probabilities, labels = only_known(probabilities, labels, task.many)
    probabilities = probabilities.astype(np.float64)
    if not task.many:
        return _doubts(row, labels, labels, probabilities)
    of_classes = [
        _doubts(row, np.full(len(row), place), labels[:, place], _no_and_yes(yes))
        for place, yes in enumerate(probabilities.T)
    ]
    fields = [field.name for field in dataclasses.fields(LabelDoubts)]
    joined = {name: np.stack([getattr(x, name) for x in of_classes], 1).ravel() for name in fields}
    return LabelDoubts(**joined)


def confident_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean probability of each class among the rows labelled with it [C]; infinite without."""
    classes = probabilities.shape[-1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(
        labels, weights=probabilities[np.arange(len(labels)), labels], minlength=classes
    )
    return np.where(counts, sums / np.maximum(counts, 1), np.inf)


def confident_classes(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The most probable of the classes that each row is confidently of [K]; -1 for none."""
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    return np.where(confident.max(axis=-1) >= 0, confident.argmax(axis=-1), -1)


def _no_and_yes(yes: np.ndarray) -> np.ndarray:
    """The probabilities of "no" and "yes" [K,2], from those of "yes" [K]."""
    return np.stack([1 - yes, yes], axis=-1)


def _doubts(
    row: np.ndarray, place: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> LabelDoubts:
    """Doubts about labels [K] that are indices into probabilities [K,C]."""
    every = np.arange(len(labels))
    own = probabilities[every, labels]
    others = probabilities.copy()
    others[every, labels] = -1
    suggestion = others.argmax(axis=-1)
    best = others[every, suggestion]
    confident = confident_classes(probabilities, confident_thresholds(probabilities, labels))
    likely = (confident >= 0) & (confident != labels) & (best > own)
    return LabelDoubts(row, place, labels, suggestion, own, best, likely)
