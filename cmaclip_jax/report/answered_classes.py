"""The classes that the answers to a pair name, and their probabilities on other pairs."""

from collections.abc import Mapping, Sequence

import numpy as np

from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.serving.classifier import Answer, Classifier
from cmaclip_jax.tasks import Task

AnsweredClasses = list[tuple[str, str, int]]  # (task, class, its index)


def answered_classes(tasks: Sequence[Task], answers: Mapping[str, Answer]) -> AnsweredClasses:
    """The classes that the answers name."""
    asked = []
    for task in tasks:
        label = answers[task.name].label
        labels = label if isinstance(label, tuple) else () if label is None else (label,)
        asked += [(task.name, name, task.classes.index(name)) for name in labels]
    return asked


def probabilities(
    classifier: Classifier, pairs: Sequence[Pair], asked: AnsweredClasses
) -> np.ndarray:
    """The probabilities [N,K] of these classes for each pair."""
    most, rows = classifier.most, []
    for start in range(0, len(pairs), most):
        batch, notes = classifier.read(pairs[start : start + most])
        outcome = classifier.outcome(batch, len(notes))
        scaled = {task: classifier.scaled(outcome, task) for task, _, _ in asked}
        rows.append(np.stack([scaled[task][:, place] for task, _, place in asked], axis=1))
    return np.concatenate(rows)
