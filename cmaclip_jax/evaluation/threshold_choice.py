"""Chooses the thresholds of a task on one split, and tests them on another.

To accept a decision of a many-label task is to assert "yes". Rows with an unknown label are left
out.

With a confidence level, the promise is about one threshold: over draws of independent decisions,
the true precision of the accepted decisions is below the target in at most 1 - level of the draws.
Several thresholds (of tasks or classes) keep the promise one by one, not all together. The promise
assumes that a lower confidence is not right more often. It does not cover data unlike the
calibration data. One threshold for a whole many-label task does not cover classes of one row that
are right or wrong together; thresholds per class do.
"""

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.decisions import decisions, only_known
from cmaclip_jax.evaluation.promise import last_promised
from cmaclip_jax.evaluation.temperature_fit import fit_temperature
from cmaclip_jax.evaluation.thresholds import TaskThresholds, Threshold
from cmaclip_jax.tasks import Task


def choose_threshold(
    confidence, correct, target: float, confidence_level: float | None = None, minimum: int = 1
) -> float | None:
    """The lowest threshold that accepts at least `minimum` decisions and keeps the target.

    Without a level, at least `target` of the accepted decisions must be right. With a level, the
    precision must be promised. None if no threshold does this: then nothing is accepted.
    """
    values, groups = np.unique(np.asarray(confidence), return_inverse=True)
    accepted = np.cumsum(np.bincount(groups)[::-1])  # at each value, from the highest down
    right = np.cumsum(np.bincount(groups, weights=correct)[::-1])
    if confidence_level is None:
        reaching = np.flatnonzero((accepted >= minimum) & (right / accepted >= target))
        last = reaching[-1] if len(reaching) else None
    else:
        last = last_promised(right, accepted, target, 1 - confidence_level, minimum)
    return None if last is None else float(values[::-1][last])


def calibrate(
    task: Task, probabilities, labels, target: float, level: float | None = None, per_class=False
) -> TaskThresholds:
    """The temperature and the thresholds of a task, from its answers on a calibration split."""
    if not 0 < target <= 1:
        raise UserError(f"the precision to reach is {target}; give one above 0 and at most 1")
    if level is not None and not 0 < level < 1:
        raise UserError(f"the confidence level is {level}; give one between 0 and 1, such as 0.9")
    probabilities, labels = only_known(probabilities, labels, task.many)
    if not np.isfinite(probabilities).all():
        raise UserError(f"task {task.name!r} has predictions that are not numbers; train it anew")
    temperature = fit_temperature(probabilities, labels, task.many)
    made = decisions(task, probabilities, labels, temperature)

    def threshold(chosen, positives) -> Threshold:
        confidence, correct = made.confidence[chosen], made.correct[chosen]
        value = choose_threshold(confidence, correct, target, level)
        return _describe(value, confidence, correct, int(positives))

    classes = enumerate(task.classes if per_class else ())
    return TaskThresholds(
        task,
        temperature,
        target,
        level,
        threshold(slice(None), made.positives),
        {name: threshold(made.place == index, made.support[index]) for index, name in classes},
    )


def reached(thresholds: TaskThresholds, probabilities, labels) -> dict:
    """The figures that thresholds reach on a split; None for 0 / 0.

    recall: the share that is accepted and right, of all known rows (one-label task) or of all true
        "yes" (many-label task).
    """
    task = thresholds.task
    probabilities, labels = only_known(probabilities, labels, task.many)
    made = decisions(task, probabilities, labels)
    accepted = thresholds.accepts(probabilities).ravel()
    right = int(np.sum(accepted & made.correct))
    return {
        "examples": len(labels),
        "accepted": int(accepted.sum()),
        "accepted_share": float(accepted.mean()) if len(accepted) else None,
        "precision": float(right / accepted.sum()) if accepted.any() else None,
        "recall": right / made.positives if made.positives else None,
    }


def _describe(value: float | None, confidence, correct, positives: int) -> Threshold:
    accepted = confidence >= (np.inf if value is None else value)
    count, right = int(accepted.sum()), int(np.sum(accepted & correct))
    precision = right / count if count else None
    recall = right / positives if positives else None
    return Threshold(value, len(confidence), count, precision, recall)
