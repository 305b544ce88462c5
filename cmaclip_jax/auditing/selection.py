"""Which rows to label by hand first: the most uncertain ones, different from one another.

A row's uncertainty is the sum over its open tasks of 1 minus the margin between the two most
probable classes: a person who looks at such a row answers several open questions. A row about
which the model is sure tells nothing new, and neither does the tenth of ten rows that are alike. So
of the most uncertain rows, a greedy k-centre search takes one after the other the row that is
farthest from those taken before (Gonzalez 1985: at most twice as far as the best choice).

The distance is Hellinger's, between the square roots of the probabilities of all tasks. It needs
nothing but the answers. Rows about which the model says the same have distance 0, and a
label for one of them says something about the others. The distance is bounded, so no class with a
tiny probability outweighs the rest, as it would with logarithms.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from cmaclip_jax.tasks import Task

CANDIDATES = 10  # most uncertain rows for every row that is taken


def select(
    tasks: Sequence[Task],
    probabilities: Mapping[str, np.ndarray],
    opened: Mapping[str, np.ndarray],
    count: int,
) -> list[int]:
    """The numbers of at most `count` rows to label by hand, the first first.

    probabilities: {task: [N,C]}, scaled. opened: {task: bool [N]}, which rows lack the label. A row
    without an open task is not taken.
    """
    doubts = sum(opened[task.name] * uncertainty(task, probabilities[task.name]) for task in tasks)
    order = np.argsort(-doubts, kind="stable")[: CANDIDATES * count]
    order = order[doubts[order] > 0]
    places = k_centres(embeddings(tasks, {n: p[order] for n, p in probabilities.items()}), count)
    return [int(order[place]) for place in places]


def uncertainty(task: Task, probabilities: np.ndarray) -> np.ndarray:
    """1 minus the margin of the decision [N]; of a many-label task, of its least sure class."""
    if task.many:
        return 1 - np.abs(2 * probabilities - 1).min(axis=-1)
    if probabilities.shape[-1] == 1:
        return np.zeros(len(probabilities))
    top = np.partition(probabilities, -2, axis=-1)
    return 1 - (top[:, -1] - top[:, -2])


def embeddings(tasks: Sequence[Task], probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
    """The square roots of all probabilities [N,D]; of many-label tasks of both "yes" and "no"."""
    parts = []
    for task in tasks:
        found = probabilities[task.name]
        parts += [found, 1 - found] if task.many else [found]
    return np.sqrt(np.concatenate(parts, axis=-1).clip(0, 1))


def k_centres(points: np.ndarray, count: int) -> list[int]:
    """Greedy centres among points [N,D]: the first point, then always the farthest from all before.

    Of equally far points the first is taken. The search ends when all that is left is a copy.
    """
    if not len(points) or count < 1:
        return []
    chosen, nearest = [0], np.linalg.norm(points - points[0], axis=-1)
    while len(chosen) < min(count, len(points)):
        farthest = int(nearest.argmax())
        if nearest[farthest] == 0:
            break
        chosen.append(farthest)
        nearest = np.minimum(nearest, np.linalg.norm(points - points[farthest], axis=-1))
    return chosen
