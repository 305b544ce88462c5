"""The confusion matrix of a task, and its most frequent mistakes."""

from collections.abc import Sequence

import numpy as np

from cmaclip_jax.evaluation.curves import collapsed, confusions_of
from cmaclip_jax.report.markup import Html, element, scrolling, table
from cmaclip_jax.tasks import Task

MOST_CLASSES = 30  # a matrix shows all classes of a task with up to so many
SHOWN_CLASSES = 12  # rows of the matrix of a task with more classes
CONFUSIONS = 10  # in the list of mistakes


def confusion_matrix(task: Task, scored: dict) -> list[Html]:
    """The confusion matrix and the most frequent mistakes of a one-label task."""
    if task.many:
        return []
    listed = scored.get("most_confused")
    parts: list[Html] = []
    if scored.get("confusion") is not None:
        counts = np.array(scored["confusion"])
        most = len(task.classes) if len(task.classes) <= MOST_CLASSES else SHOWN_CLASSES
        caption = "Confusions: a row per true class, a column per answer"
        if most < len(task.classes):
            caption += f"; the {most - 1} of {len(task.classes)} classes with the most mistakes"
        if len(task.classes) > SHOWN_CLASSES:
            listed = confusions_of(counts, task.classes, CONFUSIONS)
        parts.append(_matrix(caption, *collapsed(counts, task.classes, most)))
    if listed:
        rows = [[row["truth"], row["decision"], str(row["count"])] for row in listed]
        head = ["truth", "answer", "pairs"]
        parts.append(table("The commonest mistakes", head, rows, words=("answer",)))
    return parts


def _matrix(caption: str, classes: Sequence[str], counts: np.ndarray) -> Html:
    """A confusion matrix, shaded by the shares within each true class."""
    rows = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    lines = []
    for truth, name in enumerate(classes):
        cells = [
            element(
                "td",
                str(count) if count else "",
                style=f"--part:{part * 0.6:.2f}" if count else None,
                class_="hit" if truth == decision else None,
                title=f"{name} called {classes[decision]}: {count}" if count else None,
            )
            for decision, (count, part) in enumerate(zip(counts[truth], rows[truth], strict=True))
        ]
        lines.append(element("tr", element("th", name, scope="row"), *cells))
    names = element("tr", *[element("th", n, scope="col") for n in ["truth \\ answer", *classes]])
    whole = [
        element("caption", element("span", caption)),
        element("thead", names),
        element("tbody", *lines),
    ]
    return scrolling(caption, element("table", *whole, class_="matrix"))
