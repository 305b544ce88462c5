"""The thresholds of a trained run: chosen on one split, tried on another."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.evaluation.threshold_choice import calibrate, reached
from cmaclip_jax.evaluation.threshold_table import abstentions, threshold_table
from cmaclip_jax.evaluation.thresholds import THRESHOLDS, TaskThresholds, write_thresholds
from cmaclip_jax.parallel.cluster import leads
from cmaclip_jax.runs.judged import JudgedRun
from cmaclip_jax.screen import Screen
from cmaclip_jax.tasks import Task


def write_chosen(
    run: JudgedRun,
    outcome: Outcome,
    split: str,
    calibrated: str,
    precision: float,
    confidence: float | None,
    per_class: bool,
    screen: Screen,
) -> None:
    """Chooses thresholds, writes them into the run's folder, and shows what they reach on `split`.

    outcome: of `split`, on which the thresholds are tried.
    calibrated: the split that they are chosen on. If it is the same split, one half of the pairs
        chooses and the other half is tried.
    """
    if calibrated == split:
        screen.say(f"thresholds are chosen on one half of {split} and tested on the other")
        chosen_on, outcome = _halves(outcome)
    else:
        chosen_on = run.outcome(calibrated, screen.track)
    thresholds = choose_thresholds(
        run.tasks, chosen_on, precision, confidence, per_class, split=calibrated, step=run.step
    )
    figures = [reached(chosen, *_answers(outcome, chosen.task)) for chosen in thresholds]
    path = run.workdir / THRESHOLDS
    if leads():
        write_thresholds(path, thresholds)
    promise = promise_line(precision, confidence, calibrated)
    screen.say(f"{promise}, reached on {split}, both at step {run.step:,}:")
    screen.show(threshold_table(thresholds, figures))
    if line := abstentions(thresholds):
        screen.say(line)
    screen.say(f"written to {path}")


def promise_line(precision: float, confidence: float | None, calibrated: str) -> str:
    """What thresholds promise, and the split that they were chosen on."""
    promise = f" in {confidence:.0%} of such choices" if confidence else ""
    return (
        f"accepted answers are to be right {precision:.4g} of the time{promise}; chosen on "
        f"{calibrated}"
    )


def choose_thresholds(
    tasks: Sequence[Task],
    outcome: Outcome,
    precision: float,
    confidence: float | None = None,
    per_class: bool = False,
    **origin: Any,
) -> list[TaskThresholds]:
    """The thresholds of all tasks, chosen on an outcome. origin: the `split` and `step` of it."""
    return [
        dataclasses.replace(
            calibrate(task, *_answers(outcome, task), precision, confidence, per_class), **origin
        )
        for task in tasks
    ]


def _answers(outcome: Outcome, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities and the labels of a task."""
    return outcome["probabilities"][task.name], outcome["labels"][task.name]


def _halves(outcome: Outcome) -> tuple[Outcome, Outcome]:
    """The rows in two random halves; the same halves every time."""
    order = np.random.default_rng(0).permutation(len(outcome["row"]))
    parts = (np.sort(part) for part in np.array_split(order, 2))
    return tuple(jax.tree.map(lambda x, rows=rows: x[rows], outcome) for rows in parts)
