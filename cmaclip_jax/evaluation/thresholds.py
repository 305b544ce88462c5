"""Thresholds: the confidence from which the answers of a task are accepted.

A threshold is compared with probabilities at the temperature of the task, rounded to float32.
Answers show the same numbers: an answer is accepted if the number that it shows reaches the
threshold. `threshold_choice` chooses thresholds.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.decisions import most_probable
from cmaclip_jax.evaluation.temperature import scale
from cmaclip_jax.files import write_text
from cmaclip_jax.tasks import Task

THRESHOLDS = "thresholds.json"  # in a run's folder


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Accepts decisions with a confidence of at least `value`, a float32; None accepts nothing.

    The other fields are figures on the decisions that the threshold was chosen on, so they are too
    good. `threshold_choice.reached` measures a threshold on other decisions.
    """

    value: float | None
    examples: int
    accepted: int
    precision: float | None
    recall: float | None


@dataclasses.dataclass(frozen=True)
class TaskThresholds:
    """The threshold of a task; if `classes` is filled, also one for each class, used instead.

    level: the promised share of choices that keep the target precision; None without a promise.
    split, step: the split and the checkpoint of the answers that chose it; '' and None if unknown.
    """

    task: Task
    temperature: float
    target: float
    level: float | None
    overall: Threshold
    classes: dict[str, Threshold] = dataclasses.field(default_factory=dict)
    split: str = ""
    step: int | None = None

    def scaled(self, probabilities: np.ndarray) -> np.ndarray:
        """The model's probabilities at the task's temperature, as answers show them."""
        return scale(probabilities, self.temperature, self.task.many)

    def accepts(self, probabilities: np.ndarray) -> np.ndarray:
        """Which decisions are accepted: bool [N], or [N,C] of a many-label task.

        probabilities: those of the model, at temperature 1.
        """
        probabilities = np.asarray(probabilities)
        scaled = self.scaled(probabilities)
        values = [self.classes.get(name, self.overall).value for name in self.task.classes]
        least = np.array([np.inf if x is None else x for x in values], np.float32)  # [C]
        if self.task.many:
            return scaled >= least
        return scaled.max(axis=-1) >= least[most_probable(probabilities)]


def write_thresholds(path: str | Path, thresholds: Iterable[TaskThresholds]) -> None:
    """Writes the thresholds of a run's tasks."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, threshold_text(thresholds))


def threshold_text(thresholds: Iterable[TaskThresholds]) -> str:
    """Thresholds as the file of a run holds them."""
    rows = [dataclasses.asdict(task) for task in thresholds]
    return json.dumps({"thresholds": rows}, indent=2, ensure_ascii=False) + "\n"


def read_thresholds(path: str | Path) -> dict[str, TaskThresholds]:
    """The thresholds that `write_thresholds` wrote, by the name of the task."""
    remedy = "make them with `cmaclip evaluate --workdir=... --precision=0.95`"
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))["thresholds"]
        return {row["task"]["name"]: _read_task(row) for row in rows}
    except FileNotFoundError:
        raise UserError(f"this run has no thresholds; {remedy} ({path} is missing)") from None
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} does not hold thresholds ({reason}); {remedy}") from None


def run_thresholds(workdir: Path, step: int) -> dict[str, TaskThresholds]:
    """The thresholds of a run by the name of the task; empty if it has none.

    Raises:
      UserError: they were chosen on answers of another step and do not hold for this one.
    """
    path = workdir / THRESHOLDS
    thresholds = read_thresholds(path) if path.exists() else {}
    other = chosen_at(thresholds)
    if other not in (None, step):
        raise UserError(
            f"{path} was chosen on answers of step {other}, and this is step {step}; choose anew "
            f"with `cmaclip evaluate --workdir={workdir} --checkpoint={step} --precision=0.95`, or "
            f"take --checkpoint={other}"
        )
    return thresholds


def chosen_at(thresholds: dict[str, TaskThresholds]) -> int | None:
    """The step whose answers the thresholds were chosen on; None if unknown."""
    return next((task.step for task in thresholds.values()), None)


def _read_task(row: dict) -> TaskThresholds:
    task = Task(row["task"]["name"], tuple(row["task"]["classes"]), row["task"]["many"])
    temperature, target = float(row["temperature"]), float(row["target"])
    level = None if row["level"] is None else float(row["level"])
    classes = {name: _read_threshold(threshold) for name, threshold in row["classes"].items()}
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} of {task.name!r}")
    if classes and set(classes) != set(task.classes):
        raise ValueError(f"its classes are not those of {task.name!r}")
    overall = _read_threshold(row["overall"])
    split, step = str(row.get("split", "")), row.get("step")
    return TaskThresholds(task, temperature, target, level, overall, classes, split, step)


def _read_threshold(row: dict) -> Threshold:
    value = None if row["value"] is None else float(np.float32(row["value"]))
    return Threshold(**row | {"value": value})
