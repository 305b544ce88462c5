"""Figures of finished predictions: plain numpy, exact, one task at a time.

A task's `probabilities` are [N,C]; its `labels` are [N] (one label, negative: unknown) or
[N,C] (many labels, negative: unknown). Rows whose label is unknown count nowhere.
"""

import numpy as np

PRECISIONS = (0.90, 0.95)


def task_metrics(probabilities, labels, many: bool) -> dict:
    """Every figure of one task, over its known labels; None where there are none."""
    known = labels.min(axis=-1) >= 0 if many else labels >= 0
    probabilities, labels = probabilities[known], labels[known].astype(int)
    if not len(labels):
        nothing = {f"{precision:.2f}": None for precision in PRECISIONS}
        figures = dict.fromkeys(("accuracy", "macro_f1", "average_precision"))
        return {"examples": 0, **figures, "recall_at_precision": nothing}
    classes = probabilities.shape[-1]
    if many:
        truth, decided = labels > 0, probabilities > 0.5
        confidence, correct, positives = probabilities.ravel(), truth.ravel(), truth.sum()
    else:
        best = probabilities.argmax(axis=-1)
        truth, decided = np.eye(classes, dtype=bool)[labels], np.eye(classes, dtype=bool)[best]
        confidence, correct, positives = probabilities.max(axis=-1), best == labels, len(labels)
    return {
        "examples": len(labels),
        "accuracy": float(np.mean(np.all(truth == decided, axis=-1))),
        "macro_f1": macro_f1(truth, decided),
        "average_precision": macro_average_precision(truth, probabilities),
        "recall_at_precision": {
            f"{precision:.2f}": recall_at_precision(confidence, correct, positives, precision)
            for precision in PRECISIONS
        },
    }


def macro_f1(truth, decided) -> float:
    """The mean F1 over the classes that occur in the truth or in the decisions."""
    hits = np.sum(truth & decided, axis=0)
    both = truth.sum(axis=0) + decided.sum(axis=0)
    occurs = both > 0
    return float(np.mean(2 * hits[occurs] / both[occurs])) if occurs.any() else 0.0


def macro_average_precision(truth, scores) -> float:
    """The mean over the classes that occur of the area under their precision-recall steps."""
    areas = [_average_precision(truth[:, c], scores[:, c]) for c in np.flatnonzero(truth.any(0))]
    return float(np.mean(areas)) if areas else 0.0


def recall_at_precision(confidence, correct, positives: int, precision: float) -> float:
    """The largest share of `positives` found while at least `precision` of the found is right.

    Decisions are accepted from the most confident down; equal confidences go together.
    """
    hits, found = _cumulative(confidence, correct)
    reached = hits[hits >= precision * found]
    return float(reached.max() / positives) if len(reached) and positives else 0.0


def _average_precision(truth, scores) -> float:
    hits, found = _cumulative(scores, truth)
    gains = np.diff(hits, prepend=0) / hits[-1]
    return float(np.sum(gains * hits / found))


def _cumulative(scores, correct):
    """Right ones and all, counted down the ranking, at the end of every run of equal scores."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    return np.cumsum(correct[order])[ends], ends + 1
