"""The most confident mistakes of a task, and the most confident answers that were held back."""

import dataclasses

import numpy as np

from cmaclip_jax.evaluation.decisions import decided_classes, decisions
from cmaclip_jax.report.results import RunResults
from cmaclip_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Case:
    """A decision about the pair at `row` of its split.

    probability: if the task has thresholds, at their temperature.
    accepted: None without thresholds.
    """

    row: int
    answer: str
    probability: float
    truth: str
    right: bool
    accepted: bool | None


@dataclasses.dataclass(frozen=True)
class Cases:
    """How many decisions of a task are wrong, or held back, and the most confident of each."""

    wrong: int
    mistakes: list[Case]
    held_back: int
    abstentions: list[Case]


def cases(results: RunResults, task: Task, most: int) -> Cases:
    """The cases of a task. Nothing is held back if there are no thresholds.

    A many-label task decides "yes" or "no" for every class of a row. It holds back a "yes" that is
    not accepted.
    """
    probabilities, labels = results.judged(task)
    thresholds, accepted = results.thresholds.get(task.name), None
    temperature = thresholds.temperature if thresholds else None
    made = decisions(task, probabilities, labels, temperature)
    yes = decided_classes(probabilities, task.many)[made.row, made.place]
    wrong = yes != made.correct
    sure = np.where(yes, made.confidence, 1 - made.confidence)
    if thresholds:
        accepted = thresholds.accepts(probabilities)
        accepted = accepted[made.row, made.place] if task.many else accepted[made.row]
    held_back = np.zeros_like(yes) if accepted is None else yes & ~accepted

    def case(number: int) -> Case:
        name, truth = task.classes[made.place[number]], int(made.truth[number])
        return Case(
            row=int(results.outcome["row"][made.row[number]]),
            answer=name if yes[number] else f"not {name}",
            probability=float(sure[number]),
            truth=(f"{'' if truth else 'not '}{name}") if task.many else task.classes[truth],
            right=not wrong[number],
            accepted=bool(accepted[number]) if accepted is not None and yes[number] else None,
        )

    def surest(chosen: np.ndarray) -> list[Case]:
        places = np.flatnonzero(chosen)
        order = np.argsort(-sure[places], kind="stable")[:most]
        return [case(number) for number in places[order]]

    return Cases(int(wrong.sum()), surest(wrong), int(held_back.sum()), surest(held_back))
