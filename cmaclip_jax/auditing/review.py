"""The rows to label by hand first, written as a table that a person fills in.

While a table is labelled, only the most uncertain rows are kept in memory, by the probability of
their answers. In the end these are answered once more, because the choice among them needs the
probabilities of all classes.
"""

import csv
import heapq
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cmaclip_jax.auditing.selection import CANDIDATES, select
from cmaclip_jax.data.tables import Row
from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.files import whole_file
from cmaclip_jax.serving.classifier import Classifier
from cmaclip_jax.serving.input_table import InputTable
from cmaclip_jax.tasks import Task

GUESSES = 3  # classes that are shown for a task
NO_ANSWER = 0.5  # the doubt about a many-label task of which no class is answered


class Review:
    """The most uncertain of the rows that are offered, 2 * CANDIDATES for each of `count` rows."""

    def __init__(self, count: int):
        self.count = count
        self._most = 2 * CANDIDATES * count
        self._heap: list[tuple[float, int, Row, tuple[str, ...]]] = []

    def offer(
        self, row: Row, answer: Mapping[str, Any], still_open: Sequence[Task], number: int
    ) -> None:
        """Takes a row if it is uncertain enough.

        row: with the labels that it was given. still_open: the tasks without a label. number: of
            the row in its table, from 1.
        """
        doubt = sum(doubt_of(answer, task) for task in still_open)
        if self._most and doubt > 0:
            names = tuple(task.name for task in still_open)
            entry = (doubt, -number, row, names)
            push = heapq.heappush if len(self._heap) < self._most else heapq.heappushpop
            push(self._heap, entry)

    def candidates(self) -> list[tuple[int, Row, tuple[str, ...]]]:
        """The number, the cells and the open tasks of the rows that were taken, in table order."""
        found = [(-number, row, names) for _, number, row, names in self._heap]
        return sorted(found, key=lambda entry: entry[0])


def doubt_of(answer: Mapping[str, Any], task: Task) -> float:
    """How unsure the answer to a task is: 1 minus its probability, of several the least.

    0 if the pair has neither picture nor words, because a person could not label it either.
    """
    label, probability = answer[task.name], answer[f"{task.name}_probability"]
    if label is None:
        return 0.0
    if not task.many:
        return 1 - probability
    return max((1 - p for p in probability), default=NO_ANSWER)


def write_review(
    path: Path,
    review: Review,
    classifier: Classifier,
    table: InputTable,
    columns: Mapping[str, str],
) -> int:
    """Writes the chosen rows, and returns their number.

    The columns are the row's id, picture and words; for every task its label, empty where a person
    is to write it; and TASK_guesses, the most probable classes with their probabilities.
    """
    candidates, tasks = review.candidates(), classifier.tasks
    scaled = _probabilities(classifier, table, [row for _, row, _ in candidates])
    opened = {task.name: np.array([task.name in n for *_, n in candidates], bool) for task in tasks}
    chosen = select(tasks, scaled, opened, review.count) if candidates else []
    shown = [name for name in (table.image, *table.text) if name and name != table.id]
    guesses = [f"{task.name}_guesses" for task in tasks]
    identity = table.id or "id"
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        labels = [columns[task.name] for task in tasks]
        writer.writerow([identity, *shown, *labels, *guesses])
        for place in chosen:
            number, row, _ = candidates[place]
            cells = [row.get(name, "") for name in (*shown, *labels)]
            found = [_guesses(task, scaled[task.name][place]) for task in tasks]
            writer.writerow([table.identity(row, number), *cells, *found])
    return len(chosen)


def _probabilities(
    classifier: Classifier, table: InputTable, rows: Sequence[Row]
) -> dict[str, np.ndarray]:
    """{task: scaled probabilities [N,C]} of rows."""
    outcomes: list[Outcome] = []
    for start in range(0, len(rows), classifier.most):
        some = [table.pair(row) for row in rows[start : start + classifier.most]]
        batch, notes = classifier.read(some, full=True)
        outcomes.append(classifier.outcome(batch, len(notes)))
    if not outcomes:
        return {}
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *outcomes)
    return {task.name: classifier.scaled(whole, task.name) for task in classifier.tasks}


def _guesses(task: Task, probabilities: np.ndarray) -> str:
    best = np.argsort(-probabilities, kind="stable")[:GUESSES]
    return ", ".join(f"{task.classes[place]} {probabilities[place]:.2f}" for place in best)
