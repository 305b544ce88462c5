"""Which known labels are probably wrong, judged by answers of models that have not seen them.

Confident learning (Northcutt et al. 2021): a model answers with class j confidently if P(j) is at
least the mean P(j) of the rows that are labelled j. A label is called likely wrong if the row is
confidently of another class. Rows are ranked by a doubt: how much more probable the suggested
class is than the label.
"""

import dataclasses

import numpy as np

from cmaclip_jax.evaluation.decisions import known_rows, only_known
from cmaclip_jax.evaluation.temperature import scale
from cmaclip_jax.evaluation.temperature_fit import fit_temperature
from cmaclip_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class LabelDoubts:
    """The doubts about the labels of a task, flat [K].

    One-label task: one for each known row, against its class.
    Many-label task: one for each class of each known row, against its "yes" or "no".

    row: the row of the probabilities.
    label, suggestion: indices of classes; of many-label tasks 1 or 0.
    place: the index of the class that is doubted.
    label_probability, suggestion_probability: of either, at the task's temperature.
    doubt: the larger, the more probably the label is wrong; comparable within the task.
    likely: whether confident learning calls the label wrong, bool.
    """

    row: np.ndarray
    place: np.ndarray
    label: np.ndarray
    suggestion: np.ndarray
    label_probability: np.ndarray
    suggestion_probability: np.ndarray
    doubt: np.ndarray
    likely: np.ndarray


def label_doubts(task: Task, probabilities: np.ndarray, labels: np.ndarray) -> LabelDoubts:
    """The doubts about all known labels of a task.

    probabilities: [N,C], of models that have not learned from their row.
    labels: [N], or [N,C] of a many-label task; a negative label is unknown.
    """
    row = np.flatnonzero(known_rows(labels, task.many))
    probabilities, labels = only_known(probabilities, labels, task.many)
    temperature = fit_temperature(probabilities, labels, task.many)
    scaled = scale(probabilities, temperature, task.many)  # [K,C]
    if not task.many:
        return _doubts(row, labels, labels, scaled)
    classes = scaled.shape[-1]
    of_classes = [
        _doubts(row, np.full(len(row), place), labels[:, place], _no_and_yes(scaled[:, place]))
        for place in range(classes)
    ]
    fields = [field.name for field in dataclasses.fields(LabelDoubts)]
    joined = {name: np.stack([getattr(x, name) for x in of_classes], 1).ravel() for name in fields}
    return LabelDoubts(**joined)


def confident_thresholds(scaled: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean probability of each class among the rows labelled with it [C]; infinite without."""
    classes = scaled.shape[-1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=scaled[np.arange(len(labels)), labels], minlength=classes)
    return np.where(counts, sums / np.maximum(counts, 1), np.inf)


def confident_classes(scaled: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The most probable of the classes that each row is confidently of [K]; -1 for none."""
    confident = np.where(scaled >= thresholds, scaled, -1)
    return np.where(confident.max(axis=-1) >= 0, confident.argmax(axis=-1), -1)


def _no_and_yes(yes: np.ndarray) -> np.ndarray:
    """The probabilities of "no" and "yes" [K,2], from those of "yes" [K]."""
    return np.stack([1 - yes, yes], axis=-1)


def _doubts(
    row: np.ndarray, place: np.ndarray, labels: np.ndarray, scaled: np.ndarray
) -> LabelDoubts:
    """Doubts about labels [K] that are indices into the probabilities `scaled` [K,C]."""
    every = np.arange(len(labels))
    own = scaled[every, labels]
    others = scaled.copy()
    others[every, labels] = -1
    suggestion = others.argmax(axis=-1)
    best = others[every, suggestion]
    confident = confident_classes(scaled, confident_thresholds(scaled, labels))
    likely = (confident >= 0) & (confident != labels) & (best > own)
    return LabelDoubts(row, place, labels, suggestion, own, best, best - own, likely)
