"""The numbers of the plots and lists in a report: plain numpy, one task at a time."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cmaclip_jax.evaluation.decisions import true_classes
from cmaclip_jax.evaluation.metrics import BINS, calibration_bins, ranked
from cmaclip_jax.tasks import Task

OTHERS = "all others"


def precision_recall(
    confidence, correct, positives: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(recall, precision, threshold) of accepting decisions from the most confident down.

    recall: the share of `positives` that is accepted and right. Decisions of equal confidence are
        accepted together.
    """
    right, accepted = ranked(confidence, correct)
    thresholds = np.sort(np.asarray(confidence))[::-1][accepted - 1]
    return right / max(positives, 1), right / accepted, thresholds


@dataclasses.dataclass(frozen=True)
class Bin:
    """The decisions with a confidence from `low` to `high`.

    confidence: the mean. right: the share that is right. Both are None in an empty bin.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    right: float | None


def calibration(confidence, correct) -> list[Bin]:
    """The bins of the expected calibration error."""
    edges = np.linspace(0, 1, BINS + 1)
    return [
        Bin(low, high, int(count), *(x / count if count else None for x in (sure, right)))
        for low, high, count, right, sure in zip(
            edges[:-1], edges[1:], *calibration_bins(confidence, correct), strict=True
        )
    ]


def collapsed(
    confusion: np.ndarray, classes: Sequence[str], most: int
) -> tuple[list[str], np.ndarray]:
    """A confusion matrix of at most `most` rows: the classes with the most mistakes, then OTHERS.

    Returns the names of the rows and columns, and the counts.
    """
    if len(classes) <= most:
        return list(classes), confusion
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * np.diag(confusion)
    worst = np.sort(np.argsort(-wrong, kind="stable")[: most - 1])
    places = np.full(len(classes), len(worst))
    places[worst] = np.arange(len(worst))
    small = np.zeros((len(worst) + 1,) * 2, int)
    np.add.at(small, (places[:, None], places[None, :]), confusion)
    return [*(classes[i] for i in worst), OTHERS], small


def confusions_of(confusion: np.ndarray, classes: Sequence[str], most: int) -> list[dict]:
    """The most frequent mistakes of a confusion matrix as {truth, decision, count}."""
    wrong = confusion * (1 - np.eye(len(classes), dtype=int))
    often = np.argsort(-wrong.ravel(), kind="stable")[:most]
    return [
        {"truth": classes[t], "decision": classes[d], "count": int(wrong[t, d])}
        for t, d in (divmod(int(pair), len(classes)) for pair in often)
        if wrong[t, d]
    ]


def weights_by_class(task: Task, weights, labels) -> dict[str, np.ndarray]:
    """{class: mean modality weights [2] of the rows of that true class}, for classes that occur."""
    truth = true_classes(labels, len(task.classes), task.many)
    columns = zip(task.classes, truth.T, strict=True)
    return {name: weights[rows].mean(axis=0) for name, rows in columns if rows.any()}
