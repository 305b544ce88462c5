"""The results in a run's folder: figures, outcome, thresholds and history."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.evaluation.result_files import (
    outcome_file,
    read_outcome,
    read_score,
    score_file,
)
from cmaclip_jax.evaluation.scores import rows_with, scored_pairs
from cmaclip_jax.evaluation.thresholds import (
    THRESHOLDS,
    TaskThresholds,
    chosen_at,
    read_thresholds,
)
from cmaclip_jax.tasks import Task, read_tasks

ORDER = ("test", "val", "train")  # the first evaluated split is reported


@dataclasses.dataclass(frozen=True, eq=False)
class RunResults:
    """
    figures: evaluation/SPLIT.json; empty if the file is missing.
    outcome: the scored rows of evaluation/SPLIT.npz; None if the file is missing.
    thresholds: those of the run, if they were chosen at the step of the figures; else empty.
    stale: if they were chosen at another step, that step.
    history: {name: (steps, values)} of every figure in metrics.jsonl.
    """

    workdir: Path
    tasks: tuple[Task, ...]
    split: str
    figures: dict
    outcome: Outcome | None
    thresholds: dict[str, TaskThresholds]
    history: dict[str, tuple[list[int], list[float]]]
    stale: int | None = None

    def command(self, *more: str) -> str:
        """The command that writes missing files."""
        return " ".join(("cmaclip evaluate", f"--workdir={self.workdir}", *more))

    def judged(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """The probabilities and the labels of a task."""
        return self.outcome["probabilities"][task.name], self.outcome["labels"][task.name]


def read_results(workdir: str | Path, split: str = "") -> RunResults:
    """Reads a run's folder. Without `split`, the first evaluated one in ORDER is read."""
    workdir = Path(workdir)
    split = split or _evaluated(workdir)
    figures = read_score(workdir, split)
    judged, file = figures and outcome_file(workdir, split).exists(), workdir / THRESHOLDS
    thresholds = read_thresholds(file) if file.exists() else {}
    stale = chosen_at(thresholds)
    stale = None if stale == figures.get("step", stale) else stale
    return RunResults(
        workdir=workdir,
        tasks=_read_tasks(workdir),
        split=split,
        figures=figures,
        outcome=_scored(read_outcome(workdir, split), figures) if judged else None,
        thresholds={} if stale is not None else thresholds,
        history=read_history(workdir / "metrics.jsonl"),
        stale=stale,
    )


def read_history(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Every figure of metrics.jsonl by step. If a step was run twice, the later value counts."""
    series: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            figures = json.loads(line)
            step = int(figures.pop("step"))
        except (ValueError, KeyError, AttributeError):
            continue  # the last line of a run that was killed
        for name, value in figures.items():
            if isinstance(value, int | float) and np.isfinite(value):
                series.setdefault(name, {})[step] = float(value)
    return {name: (sorted(s), [s[step] for step in sorted(s)]) for name, s in series.items()}


def _evaluated(workdir: Path) -> str:
    """The first evaluated split in ORDER."""
    evaluated = [split for split in ORDER if score_file(workdir, split).exists()]
    return (evaluated or ["test"])[0]


def _read_tasks(workdir: Path) -> tuple[Task, ...]:
    try:
        tasks = read_tasks(workdir / "tasks.json")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{workdir} is no whole run: its tasks.json cannot be read; name another --workdir"
        ) from error
    if not tasks:
        raise UserError(f"{workdir} has no task to report on; train it anew on data with labels")
    return tasks


def _scored(outcome: Outcome, figures: dict) -> Outcome:
    rows = rows_with(outcome, figures.get("scored") or scored_pairs(outcome))
    return jax.tree.map(lambda x: x[rows], outcome)
