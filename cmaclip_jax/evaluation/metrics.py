"""Figures of finished predictions: plain numpy, exact, one task at a time.

A task's `probabilities` are [N,C]; its `labels` are [N] (one label, negative: unknown) or
[N,C] (many labels, negative: unknown). Rows whose label is unknown count nowhere, of
many-label tasks those with any class unknown. A one-label decision is the most probable
class, the first of equals; a many-label decision is yes above 0.5, for every class.

All is computed from the collected rows, since ranking figures (average precision, recall at
a precision) need every score. Everything else follows from whole numbers, and sums of
probabilities are added in ascending order: no figure depends on batches or on the order of rows.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from cmaclip_jax.tasks import Task

PRECISIONS = (0.90, 0.95)
TOP_K = (5,)
BINS = 15  # of the expected calibration error
MOST_CLASSES = 200  # a task with more has no confusion matrix
MOST_CONFUSIONS = 20  # so many are listed in its place
# The figures that are one number, whatever the task; and those that are one per precision.
NUMBERS = ("accuracy", "micro_f1", "macro_f1", "average_precision", "expected_calibration_error")
RECALLS = ("recall_at_precision", "macro_recall_at_precision")


def task_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    task: Task,
    precisions: Sequence[float] = PRECISIONS,
    top_k: Sequence[int] = TOP_K,
) -> dict:
    """Every figure of one task, over its known labels; None where there are none.

    examples: rows with a known label.
    accuracy: share of rows that are right, of many-label tasks in every class.
    micro_f1, macro_f1: of all decisions, and the mean over the classes that occur.
    average_precision: the mean over the classes that occur in the truth.
    expected_calibration_error: of the decision's probability, of many-label tasks of P(yes) over
        every row and class; in 15 bins of equal width.
    recall_at_precision: {precision: recall} of decisions accepted from the most confident down;
        micro: the classes are pooled under one threshold, which is chosen on these very rows.
    classes: {class: support, precision, recall, f1, recall_at_precision}, None where that is
        0 / 0; a class's recall at a precision is of its own decisions, by a threshold of its own.
    macro_recall_at_precision: the mean of that over the classes that occur in the truth.
    Of one-label tasks also
    top_k_accuracy: {k: share of rows}, for every k below the number of classes.
    confusion: [C,C] counts, a row per true class, a column per decision, in the task's order.
    most_confused: in place of `confusion` where a task has over 200 classes: the 20 most
        frequent mistakes as {truth, decision, count}.
    Of many-label tasks also
    confusion: [C,4] counts, true and false positives, false and true negatives of every class.
    """
    known = labels.min(axis=-1) >= 0 if task.many else labels >= 0
    probabilities, labels = probabilities[known], labels[known].astype(int)
    top_k = () if task.many else [k for k in top_k if k < len(task.classes)]
    if not len(labels):
        return _no_figures(task, precisions, top_k)
    if task.many:
        truth, decided = labels > 0, probabilities > 0.5  # [N,C]
        confidence, correct, positives = probabilities.ravel(), truth.ravel(), truth.sum()
    else:
        best = probabilities.argmax(axis=-1)
        truth, decided = (np.arange(len(task.classes)) == x[:, None] for x in (labels, best))
        confidence, correct, positives = probabilities.max(axis=-1), best == labels, len(labels)
    counts = decision_counts(truth, decided)
    places = np.tile(np.arange(len(task.classes)), len(labels)) if task.many else best
    classes = class_figures(counts)
    recalls = class_recalls(places, confidence, correct, truth.sum(axis=0), precisions)
    for row, recall in zip(classes, recalls, strict=True):
        row["recall_at_precision"] = recall
    figures = {
        "examples": len(labels),
        "accuracy": float(np.mean(np.all(truth == decided, axis=-1))),
        "micro_f1": micro_f1(counts),
        "macro_f1": macro_f1(counts),
        "average_precision": macro_average_precision(truth, probabilities),
        "expected_calibration_error": expected_calibration_error(confidence, correct),
        "recall_at_precision": _recalls(confidence, correct, positives, precisions),
        "macro_recall_at_precision": _macro(recalls, precisions),
        "classes": dict(zip(task.classes, classes, strict=True)),
    }
    if task.many:
        return figures | {"confusion": counts.tolist()}
    figures["top_k_accuracy"] = top_k_accuracy(probabilities, labels, top_k)
    return figures | confusions(labels, best, task.classes)


def counted(figures: dict | None) -> str:
    """A task's accuracy and, in brackets, how many pairs it is of; '-' where it is of none."""
    if not figures or not figures["examples"]:
        return "-"
    return f"{figures['accuracy']:.3f} ({figures['examples']:,})"


def decision_counts(truth, decided) -> np.ndarray:
    """[C,4]: true and false positives, false and true negatives of every class."""
    hits, yes, found = (np.sum(x, axis=0) for x in (truth & decided, truth, decided))
    return np.stack([hits, found - hits, yes - hits, len(truth) - yes - found + hits], axis=-1)


def class_figures(counts) -> list[dict]:
    """Support, precision, recall and F1 of every class, None where that is 0 / 0."""
    hits, wrong, missed, _ = counts.T
    columns = (_ratio(hits, hits + wrong), _ratio(hits, hits + missed), _f1(counts))
    return [
        {"support": int(support)}
        | {
            name: None if np.isnan(value) else float(value)
            for name, value in zip(("precision", "recall", "f1"), values, strict=True)
        }
        for support, *values in zip(hits + missed, *columns, strict=True)
    ]


def macro_f1(counts) -> float:
    """The mean F1 over the classes that occur in the truth or in the decisions."""
    scores = _f1(counts)
    occurs = ~np.isnan(scores)
    return float(np.mean(scores[occurs])) if occurs.any() else 0.0


def micro_f1(counts) -> float:
    """The F1 of all decisions together; of one-label tasks this is the accuracy."""
    return float(np.nan_to_num(_f1(counts.sum(axis=0, keepdims=True))[0]))


def top_k_accuracy(probabilities, labels, top_k: Sequence[int]) -> dict[str, float]:
    """{k: share of rows whose label is among the k most probable}; of equals the first wins."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=-1)  # [N,1]
    before = np.arange(probabilities.shape[-1]) < labels[:, None]
    rank = np.sum((probabilities > own) | ((probabilities == own) & before), axis=-1)
    return {str(k): float(np.mean(rank < k)) for k in top_k}


def confusions(labels, decided, classes: Sequence[str]) -> dict:
    """The confusion matrix of a one-label task, or its commonest mistakes if it has many classes.

    Equally frequent ones stand in the order of the classes.
    """
    size = len(classes)
    pairs = labels * size + decided
    if size <= MOST_CLASSES:
        return {"confusion": np.bincount(pairs, minlength=size**2).reshape(size, size).tolist()}
    mistakes, counts = np.unique(pairs[labels != decided], return_counts=True)
    often = np.argsort(-counts, kind="stable")[:MOST_CONFUSIONS]
    listed = [
        {"truth": classes[pair // size], "decision": classes[pair % size], "count": int(count)}
        for pair, count in zip(mistakes[often], counts[often], strict=True)
    ]
    return {"most_confused": listed}


def expected_calibration_error(confidence, correct) -> float:
    """The mean distance of confidence and accuracy, over bins and weighted by what they hold.

    There are 15 bins of equal width, each with its lower edge, the last with 1 as well.
    """
    _, right, claimed = calibration_bins(confidence, correct)
    return float(np.abs(right - claimed).sum() / len(confidence))


def calibration_bins(confidence, correct) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each bin: the decisions in it, how many are right, and the sum of their confidence."""
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    ascending = np.sort(confidence)  # so that rounding does not depend on the order of rows
    places = np.digitize(ascending, edges)
    right = np.bincount(np.digitize(confidence, edges), correct, BINS)
    return np.bincount(places, minlength=BINS), right, np.bincount(places, ascending, BINS)


def macro_average_precision(truth, scores) -> float:
    """The mean over the classes that occur of the area under their precision-recall steps."""
    areas = [_average_precision(truth[:, c], scores[:, c]) for c in np.flatnonzero(truth.any(0))]
    return float(np.mean(areas)) if areas else 0.0


def recall_at_precision(confidence, correct, positives: int, precision: float) -> float:
    """The largest share of `positives` found while at least `precision` of the found is right.

    Decisions are accepted from the most confident down; equal confidences go together.
    """
    if not len(confidence):
        return 0.0
    hits, found = ranked(confidence, correct)
    reached = hits[hits / found >= precision]  # a quotient: 0.07 * 100 is more than 7
    return float(reached.max() / positives) if len(reached) and positives else 0.0


def class_recalls(
    places, confidence, correct, support, precisions: Sequence[float]
) -> list[dict[str, float | None]]:
    """The recall at every precision of each class; None of a class that never occurs.

    places: the class of every decision, flat, as are `confidence` and `correct`; support [C].
    """
    order = np.argsort(places, kind="stable")
    edges = np.searchsorted(places[order], np.arange(len(support) + 1))
    own = [order[first:last] for first, last in itertools.pairwise(edges)]
    return [
        _recalls(confidence[rows], correct[rows], count, precisions)
        if count
        else dict.fromkeys(map(_precision_name, precisions))
        for rows, count in zip(own, support, strict=True)
    ]


def _recalls(confidence, correct, positives: int, precisions: Sequence[float]) -> dict[str, float]:
    return {
        _precision_name(precision): recall_at_precision(confidence, correct, positives, precision)
        for precision in precisions
    }


def _macro(recalls: Sequence[dict], precisions: Sequence[float]) -> dict[str, float]:
    """The mean over the classes that occur, at every precision."""
    names = map(_precision_name, precisions)
    occurring = {n: [row[n] for row in recalls if row[n] is not None] for n in names}
    return {name: float(np.mean(some)) if some else 0.0 for name, some in occurring.items()}


def _no_figures(task: Task, precisions: Sequence[float], top_k: Sequence[int]) -> dict:
    figures = {"examples": 0, **dict.fromkeys(NUMBERS)}
    figures |= {name: dict.fromkeys(map(_precision_name, precisions)) for name in RECALLS}
    figures["classes"] = None
    if not task.many:
        figures["top_k_accuracy"] = dict.fromkeys(map(str, top_k))
    matrix = task.many or len(task.classes) <= MOST_CLASSES
    return figures | {"confusion" if matrix else "most_confused": None}


def _precision_name(precision: float) -> str:
    """Two decimals, '0.90', and more where it has more, '0.995'."""
    return max(f"{precision:.2f}", f"{precision:g}", key=len)


def _f1(counts) -> np.ndarray:
    hits, wrong, missed, _ = counts.T
    return _ratio(2 * hits, 2 * hits + wrong + missed)


def _ratio(part, whole) -> np.ndarray:
    """Part / whole, NaN where both are 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _average_precision(truth, scores) -> float:
    hits, found = ranked(scores, truth)
    gains = np.diff(hits, prepend=0) / hits[-1]
    return float(np.sum(gains * hits / found))


def ranked(scores, correct) -> tuple[np.ndarray, np.ndarray]:
    """Right ones and all, counted down the ranking, at the end of every run of equal scores."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    return np.cumsum(correct[order])[ends], ends + 1
