"""The thresholds of a trained run: chosen on one split, tried on another."""

import dataclasses
from collections.abc import Callable

from cmaclip_jax.evaluation.evaluator import Outcome, halves
from cmaclip_jax.evaluation.thresholds import TaskThresholds, calibrate, reached
from cmaclip_jax.runs.judged import JudgedRun


def choose_thresholds(
    run: JudgedRun,
    outcome: Outcome,
    split: str,
    calibrated: str,
    precision: float,
    confidence: float | None,
    per_class: bool,
    track: Callable,
) -> tuple[list[TaskThresholds], list[dict]]:
    """The threshold of every task, and the figures that it reaches on other pairs.

    outcome: of `split`, on which the thresholds are tried.
    calibrated: the split that they are chosen on. If it is the same split, one half of the pairs
        chooses and the other half is tried.
    """
    if calibrated == split:
        chosen_on, outcome = halves(outcome)
    else:
        chosen_on = run.outcome(calibrated, track)
    thresholds, figures = [], []
    for task in run.tasks:
        known = chosen_on["probabilities"][task.name], chosen_on["labels"][task.name]
        chosen = calibrate(task, *known, precision, confidence, per_class)
        thresholds.append(dataclasses.replace(chosen, split=calibrated, step=run.step))
        fresh = outcome["probabilities"][task.name], outcome["labels"][task.name]
        figures.append(reached(thresholds[-1], *fresh))
    return thresholds, figures
