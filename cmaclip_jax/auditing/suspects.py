"""The suspects of an audit: labels that unseen answers contradict."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cmaclip_jax.auditing.suspect import Suspect
from cmaclip_jax.auditing.unseen_answers import UnseenAnswers, classes_to_judge
from cmaclip_jax.evaluation.label_doubts import LabelDoubts, label_doubts
from cmaclip_jax.tasks import UNKNOWN, Task


def find_suspects(
    tasks: Sequence[Task],
    answers: UnseenAnswers,
    ids: Sequence[str],
    splits: Sequence[str] | np.ndarray,
    contradicting: Mapping[tuple[int, str], tuple[str, ...]],
    separator: str,
) -> list[Suspect]:
    """Every label that is less probable than another answer.

    ids, splits: of all records.
    contradicting: {(record, task): ids of its twins with another label}.
    separator: joins the labels of a many-label task.
    """
    suspects = []
    for task in tasks:
        judged = classes_to_judge(task, answers)
        labels = _only_judged(task, answers.labels[task.name], judged)
        doubts = label_doubts(task, answers.probabilities[task.name], labels)
        for place in _worst_of_rows(doubts):
            row = int(answers.row[doubts.row[place]])
            label, suggestion = _names(task, doubts, place, labels, separator)
            suspects.append(
                Suspect(
                    row,
                    ids[row],
                    splits[row],
                    task.name,
                    label,
                    suggestion,
                    float(doubts.label_probability[place]),
                    float(doubts.suggestion_probability[place]),
                    float(doubts.doubt[place]),
                    bool(doubts.likely[place]),
                    contradicting.get((row, task.name), ()),
                )
            )
    return suspects


def _only_judged(task: Task, labels: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """The labels; those of classes that cannot be judged as unknown."""
    if task.many:
        of_others = (labels > 0) & ~judged
        return np.where(of_others.any(axis=1, keepdims=True), UNKNOWN, labels)
    return np.where((labels >= 0) & judged[labels.astype(int)], labels, UNKNOWN)


def _worst_of_rows(doubts: LabelDoubts) -> Iterator[int]:
    """The places of contradicted labels; of a row with several classes in doubt, the worst one."""
    contradicted = np.flatnonzero(doubts.suggestion_probability > doubts.label_probability)
    order = contradicted[np.argsort(-doubts.doubt[contradicted], kind="stable")]
    _, first = np.unique(doubts.row[order], return_index=True)
    yield from order[np.sort(first)].tolist()


def _names(
    task: Task, doubts: LabelDoubts, place: int, labels: np.ndarray, separator: str
) -> tuple[str, str]:
    """The label and the suggestion of a row. A many-label suggestion changes one class."""
    if not task.many:
        return task.classes[doubts.label[place]], task.classes[doubts.suggestion[place]]
    given = labels[doubts.row[place]] > 0
    suggested = given.copy()
    suggested[doubts.place[place]] ^= True

    def joined(chosen: np.ndarray) -> str:
        return separator.join(task.classes[number] for number in np.flatnonzero(chosen))

    return joined(given), joined(suggested)
