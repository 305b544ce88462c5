"""The figures of a task: plain numpy, exact, one task at a time.

`decisions` defines `probabilities`, `labels`, known rows and decided classes. Rows with an unknown
label are left out.

examples: rows with a known label.
accuracy: the share of rows that are right; of many-label tasks, right in every class.
micro_f1, macro_f1: the F1 of all decisions together, and the mean F1 of the classes that occur.
average_precision: the mean over the classes that occur in the truth.
expected_calibration_error: of the decision's probability; of many-label tasks, of P(yes) over
    every row and class. In 15 bins of equal width.
recall_at_precision: {precision: recall} if decisions are accepted from the most confident down.
    All classes share one threshold, which is chosen on the same rows.
classes: {class: support, precision, recall, f1, recall_at_precision}, None for 0 / 0. The recall at
    a precision is that of the decisions for this class, with a threshold of its own.
macro_recall_at_precision: the mean of the classes' recall over those that occur in the truth.
One-label tasks also have
top_k_accuracy: {k: share of rows}, for every k below the number of classes.
confusion: [C,C] counts, a row per true class, a column per decision, in the task's order.
most_confused: in place of `confusion` if a task has over 200 classes: the 20 most frequent
    mistakes as {truth, decision, count}.
Many-label tasks also have
confusion: [C,4] counts: true and false positives, false and true negatives of every class.

All figures are computed from the rows of the whole split, because average precision and recall at a
precision need every score. No figure depends on batches or on the order of rows: the other figures
are made of whole numbers, and probabilities are added in ascending order.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from cmaclip_jax.evaluation.decisions import (
    Decisions,
    decided_classes,
    decisions,
    only_known,
    true_classes,
)
from cmaclip_jax.tasks import Task

PRECISIONS = (0.90, 0.95)
TOP_K = (5,)
BINS = 15  # of the expected calibration error
MOST_CLASSES = 200  # a task with more has no confusion matrix
MOST_CONFUSIONS = 20  # in `most_confused`
# Figures of every task: single numbers, and one number per precision.
NUMBERS = ("accuracy", "micro_f1", "macro_f1", "average_precision", "expected_calibration_error")
RECALLS = ("recall_at_precision", "macro_recall_at_precision")


def task_metrics(
    probabilities: np.ndarray,
    labels: np.ndarray,
    task: Task,
    precisions: Sequence[float] = PRECISIONS,
    top_k: Sequence[int] = TOP_K,
) -> dict:
    """Every figure of one task, over its known rows; None if there are none."""
    probabilities, labels = only_known(probabilities, labels, task.many)
    top_k = () if task.many else [k for k in top_k if k < len(task.classes)]
    if not len(labels):
        return _no_figures(task, precisions, top_k)
    made = decisions(task, probabilities, labels)
    truth = true_classes(labels, len(task.classes), task.many)  # [N,C]
    decided = decided_classes(probabilities, task.many)  # [N,C]
    counts = decision_counts(truth, decided)
    recalls = class_recalls(made, precisions)
    classes = [
        figures | {"recall_at_precision": recall}
        for figures, recall in zip(class_figures(counts), recalls, strict=True)
    ]
    figures = {
        "examples": len(labels),
        "accuracy": float(np.mean(np.all(truth == decided, axis=-1))),
        "micro_f1": micro_f1(counts),
        "macro_f1": macro_f1(counts),
        "average_precision": macro_average_precision(truth, probabilities),
        "expected_calibration_error": expected_calibration_error(made.confidence, made.correct),
        "recall_at_precision": _recalls(made.confidence, made.correct, made.positives, precisions),
        "macro_recall_at_precision": _macro(recalls, precisions),
        "classes": dict(zip(task.classes, classes, strict=True)),
    }
    if task.many:
        return figures | {"confusion": counts.tolist()}
    figures["top_k_accuracy"] = top_k_accuracy(probabilities, labels, top_k)
    return figures | confusions(labels, made.place, task.classes)


def counted(figures: dict | None) -> str:
    """A task's accuracy and, in brackets, the number of pairs; '-' if there are none."""
    if not figures or not figures["examples"]:
        return "-"
    return f"{figures['accuracy']:.3f} ({figures['examples']:,})"


def decision_counts(truth, decided) -> np.ndarray:
    """[C,4]: true and false positives, false and true negatives of every class."""
    hits, true, yes = (np.sum(x, axis=0) for x in (truth & decided, truth, decided))
    return np.stack([hits, yes - hits, true - hits, len(truth) - true - yes + hits], axis=-1)


def class_figures(counts) -> list[dict]:
    """Support, precision, recall and F1 of every class, None for 0 / 0."""
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
    """{k: share of rows with the label among the k most probable}; of equals, the first wins."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=-1)  # [N,1]
    before = np.arange(probabilities.shape[-1]) < labels[:, None]
    rank = np.sum((probabilities > own) | ((probabilities == own) & before), axis=-1)
    return {str(k): float(np.mean(rank < k)) for k in top_k}


def confusions(labels, decided, classes: Sequence[str]) -> dict:
    """The confusion matrix of a one-label task; with many classes, its most frequent mistakes.

    Equally frequent mistakes are in the order of the classes.
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
    """The mean difference of confidence and accuracy over bins, weighted by their decisions.

    The 15 bins have equal width. A bin includes its lower edge, and the last one also 1.
    """
    _, right, sure = calibration_bins(confidence, correct)
    return float(np.abs(right - sure).sum() / len(confidence))


def calibration_bins(confidence, correct) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each bin: the number of decisions, how many are right, and the sum of confidence."""
    edges = np.linspace(0, 1, BINS + 1)[1:-1]
    ascending = np.sort(confidence)  # so that rounding does not depend on the order of rows
    places = np.digitize(ascending, edges)
    right = np.bincount(np.digitize(confidence, edges), correct, BINS)
    return np.bincount(places, minlength=BINS), right, np.bincount(places, ascending, BINS)


def macro_average_precision(truth, scores) -> float:
    """The mean area under the precision-recall steps of the classes that occur."""
    areas = [_average_precision(truth[:, c], scores[:, c]) for c in np.flatnonzero(truth.any(0))]
    return float(np.mean(areas)) if areas else 0.0


def recall_at_precision(confidence, correct, positives: int, precision: float) -> float:
    """The largest recall at which at least `precision` of the accepted decisions are right.

    Decisions are accepted from the most confident down, equal confidences together.
    positives: the denominator of recall.
    """
    if not len(confidence):
        return 0.0
    right, accepted = ranked(confidence, correct)
    reached = right[right / accepted >= precision]  # a quotient: 0.07 * 100 is more than 7
    return float(reached.max() / positives) if len(reached) and positives else 0.0


def class_recalls(made: Decisions, precisions: Sequence[float]) -> list[dict[str, float | None]]:
    """The recall at every precision of each class; None for a class that never occurs."""
    order = np.argsort(made.place, kind="stable")
    edges = np.searchsorted(made.place[order], np.arange(len(made.support) + 1))
    rows_by_class = [order[first:last] for first, last in itertools.pairwise(edges)]
    return [
        _recalls(made.confidence[rows], made.correct[rows], support, precisions)
        if support
        else dict.fromkeys(map(_precision_name, precisions))
        for rows, support in zip(rows_by_class, made.support, strict=True)
    ]


def _recalls(confidence, correct, positives: int, precisions: Sequence[float]) -> dict[str, float]:
    return {
        _precision_name(precision): recall_at_precision(confidence, correct, positives, precision)
        for precision in precisions
    }


def _macro(recalls: Sequence[dict], precisions: Sequence[float]) -> dict[str, float]:
    """The mean recall over the classes that occur, at every precision."""
    names = map(_precision_name, precisions)
    occurring = {n: [row[n] for row in recalls if row[n] is not None] for n in names}
    return {name: float(np.mean(values)) if values else 0.0 for name, values in occurring.items()}


def _no_figures(task: Task, precisions: Sequence[float], top_k: Sequence[int]) -> dict:
    figures = {"examples": 0, **dict.fromkeys(NUMBERS)}
    figures |= {name: dict.fromkeys(map(_precision_name, precisions)) for name in RECALLS}
    figures["classes"] = None
    if not task.many:
        figures["top_k_accuracy"] = dict.fromkeys(map(str, top_k))
    matrix = task.many or len(task.classes) <= MOST_CLASSES
    return figures | {"confusion" if matrix else "most_confused": None}


def _precision_name(precision: float) -> str:
    """At least two decimals: '0.90', '0.995'."""
    return max(f"{precision:.2f}", f"{precision:g}", key=len)


def _f1(counts) -> np.ndarray:
    hits, wrong, missed, _ = counts.T
    return _ratio(2 * hits, 2 * hits + wrong + missed)


def _ratio(part, whole) -> np.ndarray:
    """Part / whole, NaN for 0 / 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _average_precision(truth, scores) -> float:
    right, accepted = ranked(scores, truth)
    gains = np.diff(right, prepend=0) / right[-1]
    return float(np.sum(gains * right / accepted))


def ranked(scores, correct) -> tuple[np.ndarray, np.ndarray]:
    """(decisions that are right, decisions) down to each distinct score, the highest score first.

    Equal scores are counted together.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    return np.cumsum(correct[order])[ends], ends + 1
