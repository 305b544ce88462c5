"""Classes with too few known rows for a promise of precision."""

import numpy as np

from cmaclip_jax.evaluation.promise import fewest_decisions
from cmaclip_jax.tasks import Task

PRECISION, LEVEL = 0.95, 0.9  # of the promise


def rows_for_a_promise() -> int:
    """The rows of a class that its own threshold needs at least, if it makes no error on them."""
    return int(fewest_decisions(0, PRECISION, 1 - LEVEL))


def rare_classes(task: Task, labels: np.ndarray) -> dict[str, int]:
    """{class: known rows} of the classes with too few rows for a promise, the rarest first.

    labels: [N], or [N,C] of a many-label task; negative is unknown.
    """
    counts = [
        int(np.sum(labels[:, i] > 0 if task.many else labels == i))
        for i in range(len(task.classes))
    ]
    rare = {
        name: n for name, n in zip(task.classes, counts, strict=True) if n < rows_for_a_promise()
    }
    return dict(sorted(rare.items(), key=lambda item: item[1]))
