"""The confidence from which decisions are accepted, so that a wanted precision is kept.

`decisions` says what a decision is. To accept a decision of a many-label task is to assert "yes".
Rows with an unknown label count nowhere.

Thresholds are chosen and tested on probabilities at the task's temperature, rounded to float32.
Answers show the same numbers, so an answer is accepted exactly if the number that it shows reaches
the threshold.

With a confidence level, the promise is about one threshold: over draws of independent decisions,
the true precision of what it accepts is below the target in at most 1 - level of the draws.
Several thresholds (of tasks or classes) keep it each, not all at once. The promise does not cover
data unlike the calibration data. Nor does one threshold for a whole many-label task cover classes
of one row that are right or wrong together; thresholds per class do. It assumes that lower
confidence is no more often right.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.decisions import decisions, most_probable, only_known
from cmaclip_jax.evaluation.promise import last_promised
from cmaclip_jax.evaluation.temperature import fit_temperature, scale
from cmaclip_jax.files import write_text
from cmaclip_jax.tasks import Task

THRESHOLDS = "thresholds.json"  # in a run's folder


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Decisions at least as confident as `value`, a float32, are accepted; None accepts nothing.

    The other fields describe the decisions that it was chosen on, where it looks better than it is.
    `reached` measures it on others.
    """

    value: float | None
    examples: int
    accepted: int
    precision: float | None
    recall: float | None


@dataclasses.dataclass(frozen=True)
class TaskThresholds:
    """What a task accepts: by one threshold, or, if `classes` is filled, by one per class.

    level: the share of such choices that keep the target precision; None: nothing is promised.
    split, step: the answers that it was chosen on and their checkpoint, '' and None if unknown.
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
        """A model's own probabilities at the task's temperature, as answers show them."""
        return scale(probabilities, self.temperature, self.task.many)

    def accepts(self, probabilities: np.ndarray) -> np.ndarray:
        """Which decisions are accepted: bool [N], or [N,C] of a many-label task.

        probabilities: the model's own.
        """
        probabilities = np.asarray(probabilities)
        scaled = self.scaled(probabilities)
        values = [self.classes.get(name, self.overall).value for name in self.task.classes]
        least = np.array([np.inf if x is None else x for x in values], np.float32)  # [C]
        if self.task.many:
            return scaled >= least
        return scaled.max(axis=-1) >= least[most_probable(probabilities)]


def choose_threshold(
    confidence, correct, target: float, confidence_level: float | None = None, minimum: int = 1
) -> float | None:
    """The threshold to accept decisions from, most confident first, equal ones together.

    Without a level: the lowest threshold at which at least `target` of the accepted decisions are
    right. With a level: the lowest that can be promised. None if there is no such threshold, or
    none that accepts at least `minimum` decisions: then nothing is to be accepted.
    """
    values, groups = np.unique(np.asarray(confidence), return_inverse=True)
    accepted = np.cumsum(np.bincount(groups)[::-1])  # at each value, from the highest down
    right = np.cumsum(np.bincount(groups, weights=correct)[::-1])
    if confidence_level is None:
        reaching = np.flatnonzero((accepted >= minimum) & (right / accepted >= target))
        last = reaching[-1] if len(reaching) else None
    else:
        last = last_promised(right, accepted, target, 1 - confidence_level, minimum)
    return None if last is None else float(values[::-1][last])


def calibrate(
    task: Task, probabilities, labels, target: float, level: float | None = None, per_class=False
) -> TaskThresholds:
    """The temperature and the thresholds of a task, from predictions on a calibration split."""
    if not 0 < target <= 1:
        raise UserError(f"the precision to reach is {target}; give one above 0 and at most 1")
    if level is not None and not 0 < level < 1:
        raise UserError(f"the confidence level is {level}; give one between 0 and 1, such as 0.9")
    probabilities, labels = only_known(probabilities, labels, task.many)
    if not np.isfinite(probabilities).all():
        raise UserError(f"task {task.name!r} has predictions that are not numbers; train it anew")
    temperature = fit_temperature(probabilities, labels, task.many)
    made = decisions(task, probabilities, labels, temperature)

    def threshold(chosen, positives) -> Threshold:
        confidence, correct = made.confidence[chosen], made.correct[chosen]
        value = choose_threshold(confidence, correct, target, level)
        return _describe(value, confidence, correct, int(positives))

    classes = enumerate(task.classes if per_class else ())
    return TaskThresholds(
        task,
        temperature,
        target,
        level,
        threshold(slice(None), made.positives),
        {name: threshold(made.place == index, made.support[index]) for index, name in classes},
    )


def reached(thresholds: TaskThresholds, probabilities, labels) -> dict:
    """What thresholds reach on a split; None for a share of nothing.

    recall: the share of all known rows (one label) or of all true "yes" (many) that is accepted
        and right.
    """
    task = thresholds.task
    probabilities, labels = only_known(probabilities, labels, task.many)
    made = decisions(task, probabilities, labels)
    accepted = thresholds.accepts(probabilities).ravel()
    right = int(np.sum(accepted & made.correct))
    return {
        "examples": len(labels),
        "accepted": int(accepted.sum()),
        "accepted_share": float(accepted.mean()) if len(accepted) else None,
        "precision": float(right / accepted.sum()) if accepted.any() else None,
        "recall": right / made.positives if made.positives else None,
    }


def write_thresholds(path: str | Path, thresholds: Iterable[TaskThresholds]) -> None:
    """Writes the thresholds of a run's tasks."""
    rows = [dataclasses.asdict(task) for task in thresholds]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"thresholds": rows}, indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


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
      UserError: they were chosen on answers of another step, so they promise nothing for this one.
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


def _describe(value: float | None, confidence, correct, positives: int) -> Threshold:
    accepted = confidence >= (np.inf if value is None else value)
    count, right = int(accepted.sum()), int(np.sum(accepted & correct))
    precision = right / count if count else None
    recall = right / positives if positives else None
    return Threshold(value, len(confidence), count, precision, recall)
