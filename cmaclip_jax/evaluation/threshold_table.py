"""Thresholds as a table for the screen, and a line on those that accept nothing."""

from collections.abc import Sequence

from rich.table import Table

from cmaclip_jax.evaluation.tables import figure
from cmaclip_jax.evaluation.thresholds import TaskThresholds
from cmaclip_jax.screen import text_table


def threshold_table(thresholds: Sequence[TaskThresholds], reached: Sequence[dict]) -> Table:
    """One line per task: its threshold, and the share accepted, precision and recall it reaches."""
    lines = [
        [
            task.task.name,
            "by class" if task.classes else figure(task.overall.value),
            *[figure(figures[name]) for name in ("accepted_share", "precision", "recall")],
        ]
        for task, figures in zip(thresholds, reached, strict=True)
    ]
    return text_table([["task", "threshold", "accepted", "precision", "recall"], *lines], "")


def abstentions(thresholds: Sequence[TaskThresholds]) -> str:
    """The tasks whose thresholds accept nothing, and a remedy; '' if there are none."""
    silent = [
        task.task.name
        for task in thresholds
        if all(x.value is None for x in task.classes.values() or [task.overall])
    ]
    if not silent:
        return ""
    first, names = thresholds[0], ", ".join(silent)
    if first.level is None:
        return (
            f"no threshold of {names} reaches a precision of {first.target:g} on {first.split}; "
            "use a lower --precision, or a run that is right more often where it is confident"
        )
    return (
        f"nothing can be promised for {names}; use more labelled pairs to choose on, a lower "
        "--precision or a lower --confidence"
    )
