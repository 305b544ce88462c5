"""What plots and lists of a split are made from: plain numpy, one task at a time."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cmaclip_jax.evaluation.metrics import BINS, calibration_bins, ranked
from cmaclip_jax.evaluation.thresholds import TaskThresholds
from cmaclip_jax.tasks import Task

OTHERS = "all others"


@dataclasses.dataclass(frozen=True)
class Decisions:
    """The decisions of a task on rows with a known label, flat.

    Of a one-label task a row is one decision, for its most probable class; of a many-label
    task every class of a row is one, and its confidence is P(yes).
    row, place: which row of the split and which class it is about.
    truth: the true class, of many-label tasks 1 or 0.
    positives: what recall is a share of: all rows, or all true "yes".
    """

    row: np.ndarray
    place: np.ndarray
    truth: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    positives: int


def decisions(task: Task, probabilities, labels) -> Decisions:
    """The decisions of a task; rows without a known label are left out."""
    known = np.flatnonzero(labels.min(axis=-1) >= 0 if task.many else labels >= 0)
    probabilities, labels = probabilities[known], labels[known].astype(int)
    if task.many:
        row, place = (
            np.repeat(known, len(task.classes)),
            np.tile(range(len(task.classes)), len(known)),
        )
        truth, confidence = labels.ravel(), probabilities.ravel()
        return Decisions(row, place, truth, confidence, truth > 0, int((truth > 0).sum()))
    place, confidence = probabilities.argmax(axis=-1), probabilities.max(axis=-1)
    return Decisions(known, place, labels, confidence, place == labels, len(known))


def precision_recall(
    confidence, correct, positives: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(recall, precision, threshold) of accepting decisions from the most confident down.

    recall: the share of `positives` that is accepted and right; equal confidences go together.
    """
    hits, found = ranked(confidence, correct)
    thresholds = np.sort(np.asarray(confidence))[::-1][found - 1]
    return hits / max(positives, 1), hits / found, thresholds


def scaled(thresholds: TaskThresholds | None, probabilities) -> np.ndarray:
    """The probabilities that a threshold goes by, or the model's own where there is none."""
    return probabilities if thresholds is None else thresholds.scaled(probabilities)


@dataclasses.dataclass(frozen=True)
class Bin:
    """Decisions of similar confidence: how many, how sure on average and how often right."""

    low: float
    high: float
    count: int
    claimed: float | None
    right: float | None


def calibration(confidence, correct) -> list[Bin]:
    """The 15 bins that the calibration error is summed over."""
    edges = np.linspace(0, 1, BINS + 1)
    return [
        Bin(low, high, int(count), *(x / count if count else None for x in (claimed, right)))
        for low, high, count, right, claimed in zip(
            edges[:-1], edges[1:], *calibration_bins(confidence, correct), strict=True
        )
    ]


def collapsed(
    confusion: np.ndarray, classes: Sequence[str], most: int
) -> tuple[list[str], np.ndarray]:
    """A confusion matrix of the `most` classes with the most mistakes, and of all others as one."""
    if len(classes) <= most:
        return list(classes), confusion
    wrong = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * np.diag(confusion)
    kept = np.sort(np.argsort(-wrong, kind="stable")[: most - 1])
    places = np.full(len(classes), len(kept))
    places[kept] = np.arange(len(kept))
    small = np.zeros((len(kept) + 1,) * 2, int)
    np.add.at(small, (places[:, None], places[None, :]), confusion)
    return [*(classes[i] for i in kept), OTHERS], small


def confusions_of(confusion: np.ndarray, classes: Sequence[str], most: int) -> list[dict]:
    """The commonest mistakes of a confusion matrix as {truth, decision, count}."""
    wrong = confusion * (1 - np.eye(len(classes), dtype=int))
    often = np.argsort(-wrong.ravel(), kind="stable")[:most]
    return [
        {"truth": classes[t], "decision": classes[d], "count": int(wrong[t, d])}
        for t, d in (divmod(int(pair), len(classes)) for pair in often)
        if wrong[t, d]
    ]


def weights_by_class(task: Task, weights, labels) -> dict[str, np.ndarray]:
    """The mean modality weights [2] of the rows of every true class that occurs."""
    held = labels > 0 if task.many else labels[:, None] == np.arange(len(task.classes))
    rows = zip(task.classes, held.T, strict=True)
    return {name: weights[held].mean(axis=0) for name, held in rows if held.any()}
