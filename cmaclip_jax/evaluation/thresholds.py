"""From which confidence on a decision is accepted, so that a promised precision is kept.

Calibration predictions of a task are `probabilities` [N,C] and `labels`, as in `metrics`: [N]
(one label, negative: unknown) or [N,C] (many labels, negative anywhere: the row is unknown).
A one-label task decides for its most probable class; of a many-label task every class of a row
is a decision of its own, and to accept it is to assert "yes". Unknown rows count nowhere.

Thresholds are chosen and tested on probabilities at the task's temperature, rounded to float32.
Those are the probabilities that an answer shows, so that an answer stands exactly where the
number that it shows reaches the threshold.

The promise of a confidence level is about one threshold: over draws of independent decisions,
the true precision of what it accepts lies below the target in at most 1 - level of the draws.
Several thresholds (of tasks or classes) keep it each, not all at once. It does not cover data
unlike the calibration data, nor classes of one row that are right or wrong together (thresholds
per class do), and it takes lower confidence to be no more often right.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax
from scipy.stats import binom, nbinom

from cmaclip_jax.errors import UserError
from cmaclip_jax.files import write_text
from cmaclip_jax.tasks import Task

THRESHOLDS = "thresholds.json"  # in a run's folder
TEMPERATURES = (1 / 20, 20)
# The counts of accepted decisions that are tested: the first, from which a test can pass if none
# is wrong, and from there on each 5 % more than the one before. A promise that had to pass the
# first would be lost by chance (of 45 decisions at 98 % precision one is wrong more often than
# not), so the sequence starts again where this many errors are forgiven.
SPARED_ERRORS = (0, 7, 30)
STEP = 1.05


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Decisions at least as confident as `value`, a float32, are accepted; None accepts nothing.

    The rest is of the known decisions it was chosen on, and flattering; `reached` is fair.
    """

    value: float | None
    examples: int
    accepted: int
    precision: float | None
    recall: float | None


@dataclasses.dataclass(frozen=True)
class TaskThresholds:
    """What a task accepts: by one threshold, or by one for every class where `classes` is filled.

    level: how surely the target precision is reached; None: it was reached, and nothing promised.
    split, step: on which answers, and of which checkpoint, where that is known.
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
        """A model's own probabilities at the task's temperature, as they are shown and tested."""
        return scale(probabilities, self.temperature, self.task.many)

    def accepts(self, probabilities: np.ndarray) -> np.ndarray:
        """Which decisions of a model's own probabilities stand: [N], of many labels [N,C].

        Of a one-label task the decision is the class with the highest probability.
        """
        probabilities = np.asarray(probabilities)
        scaled = self.scaled(probabilities)
        kept = [self.classes.get(name, self.overall).value for name in self.task.classes]
        least = np.array([np.inf if x is None else x for x in kept], np.float32)  # [C]
        if self.task.many:
            return scaled >= least
        return scaled.max(axis=-1) >= least[probabilities.argmax(axis=-1)]


def fit_temperature(probabilities, labels, many: bool) -> float:
    """The temperature under which the known labels are likeliest; 1 where none are known.

    It mends confidence that is too high or too low throughout; the decisions stay as they are.
    """
    probabilities, labels = _known(probabilities, labels, many)
    if not len(labels):
        return 1.0
    scores = _scores(probabilities, many)
    signs = 2 * (labels > 0) - 1

    def surprise(log_temperature):
        scaled = scores / np.exp(log_temperature)
        if many:
            return -np.mean(log_expit(signs * scaled))
        return -np.mean(log_softmax(scaled, axis=-1)[np.arange(len(labels)), labels])

    best = minimize_scalar(surprise, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(best.x))


def scale(probabilities, temperature: float, many: bool) -> np.ndarray:
    """Probabilities at another temperature; above 1 they grow less sure.

    They are computed in float64 and rounded to float32, the type of whatever shows them.
    """
    scores = _scores(np.asarray(probabilities), many) / temperature
    return (expit(scores) if many else softmax(scores, axis=-1)).astype(np.float32)


def choose_threshold(
    confidence, correct, target: float, confidence_level: float | None = None, minimum: int = 1
) -> float | None:
    """The threshold to accept decisions from, most confident first, equal ones together.

    Without a level, the lowest one at which the accepted ones are right at least `target` of the
    time. With one, the lowest that can be promised. None: not even the first `minimum` reach it,
    or there are too few to tell, and it is for the caller to abstain.
    """
    values, groups = np.unique(np.asarray(confidence), return_inverse=True)
    found = np.cumsum(np.bincount(groups)[::-1])  # accepted at each value, from the highest down
    hits = np.cumsum(np.bincount(groups, weights=correct)[::-1])
    if confidence_level is None:
        reached = np.flatnonzero((found >= minimum) & (hits / found >= target))
        last = reached[-1] if len(reached) else None
    else:
        last = _last_promised(hits, found, target, 1 - confidence_level, minimum)
    return None if last is None else float(values[::-1][last])


def calibrate(
    task: Task, probabilities, labels, target: float, level: float | None = None, per_class=False
) -> TaskThresholds:
    """The temperature and the thresholds of a task, from predictions on a calibration split."""
    if not 0 < target <= 1:
        raise UserError(f"the precision to reach is {target}; give one above 0 and at most 1")
    if level is not None and not 0 < level < 1:
        raise UserError(f"the confidence level is {level}; give one between 0 and 1, such as 0.9")
    probabilities, labels = _known(probabilities, labels, task.many)
    if not np.isfinite(probabilities).all():
        raise UserError(f"task {task.name!r} has predictions that are not numbers; train it anew")
    temperature = fit_temperature(probabilities, labels, task.many)
    scaled = scale(probabilities, temperature, task.many)
    confidence = scaled.ravel() if task.many else scaled.max(axis=-1)
    decided, correct, positives = _decisions(probabilities, labels, task.many)

    def threshold(rows, share):
        value = choose_threshold(confidence[rows], correct[rows], target, level)
        return _describe(value, confidence[rows], correct[rows], int(share))

    classes = enumerate(task.classes if per_class else ())
    return TaskThresholds(
        task,
        temperature,
        target,
        level,
        threshold(slice(None), positives.sum()),
        {name: threshold(decided == index, positives[index]) for index, name in classes},
    )


def reached(thresholds: TaskThresholds, probabilities, labels) -> dict:
    """How thresholds do on a split they were not chosen on; None where there is nothing to divide.

    recall: of all known rows (one label) or known "yes" (many), the share accepted and right.
    """
    many = thresholds.task.many
    probabilities, labels = _known(probabilities, labels, many)
    accepted = thresholds.accepts(probabilities).ravel()
    _, correct, positives = _decisions(probabilities, labels, many)
    right, total = int(np.sum(accepted & correct)), int(positives.sum())
    return {
        "examples": len(labels),
        "accepted": int(accepted.sum()),
        "accepted_share": float(accepted.mean()) if len(accepted) else None,
        "precision": float(right / accepted.sum()) if accepted.any() else None,
        "recall": right / total if total else None,
    }


def write_thresholds(path: str | Path, thresholds: Iterable[TaskThresholds]) -> None:
    """Writes the thresholds of a run's tasks."""
    rows = [dataclasses.asdict(task) for task in thresholds]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"thresholds": rows}, indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def read_thresholds(path: str | Path) -> dict[str, TaskThresholds]:
    """What `write_thresholds` wrote, by the name of the task."""
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
    """The thresholds of a run by the name of the task, empty where it has none.

    Raises:
      UserError: they were chosen on answers of another step than `step`. What they promise does
        not hold for these.
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
    """The step whose answers thresholds were chosen on, where that is known."""
    return next((task.step for task in thresholds.values()), None)


def _read_task(row: dict) -> TaskThresholds:
    task = Task(row["task"]["name"], tuple(row["task"]["classes"]), row["task"]["many"])
    temperature, target = float(row["temperature"]), float(row["target"])
    level = None if row["level"] is None else float(row["level"])
    classes = {name: _read_threshold(kept) for name, kept in row["classes"].items()}
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} of {task.name!r}")
    if classes and set(classes) != set(task.classes):
        raise ValueError(f"other classes than those of {task.name!r}")
    overall = _read_threshold(row["overall"])
    split, step = str(row.get("split", "")), row.get("step")
    return TaskThresholds(task, temperature, target, level, overall, classes, split, step)


def _read_threshold(row: dict) -> Threshold:
    value = None if row["value"] is None else float(np.float32(row["value"]))
    return Threshold(**row | {"value": value})


def _known(probabilities, labels, many: bool):
    """The rows that have a label, and these labels as integers."""
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    known = labels.min(axis=-1) >= 0 if many else labels >= 0
    return probabilities[known], labels[known].astype(int)


def _scores(probabilities: np.ndarray, many: bool) -> np.ndarray:
    """What a temperature divides, float64: logits (many) or log-probabilities, always finite.

    0 is taken for the smallest number of its type and 1 for just above the largest below 1.
    """
    kind = np.finfo(probabilities.dtype)
    present = np.maximum(probabilities.astype(np.float64), kind.tiny)
    if not many:
        return np.log(present)
    return np.log(present) - np.log(np.maximum(1 - present, kind.eps / 4))


def _decisions(probabilities, labels, many: bool):
    """Of every decision, flat, its class and whether it is right; and the positives by class."""
    rows, classes = probabilities.shape
    if many:
        truth = labels > 0  # [N,C]
        return np.tile(np.arange(classes), rows), truth.ravel(), truth.sum(axis=0)
    decided = probabilities.argmax(axis=-1)
    return decided, decided == labels, np.bincount(labels, minlength=classes)


def _describe(value: float | None, confidence, correct, positives: int) -> Threshold:
    accepted = confidence >= (np.inf if value is None else value)
    count, right = int(accepted.sum()), int(np.sum(accepted & correct))
    precision = right / count if count else None
    recall = right / positives if positives else None
    return Threshold(value, len(confidence), count, precision, recall)


def _last_promised(hits, found, target: float, risk: float, minimum: int) -> int | None:
    """The last of the tested thresholds whose precision is above `target`, but for `risk`.

    To take the best of all thresholds whose lower bound is above the target would break the
    promise: the best of many is lucky. So the thresholds to test, and their order, are fixed
    by counts, without a look at what is right, and `risk` is spent once (Learn then Test,
    Angelopoulos et al. 2021, with the fallback procedure, Wiens 2003): each start brings a share,
    a test that passes hands what it had to the next, and one that fails loses it. The test is
    exact: it passes where the Clopper-Pearson lower bound at that risk reaches the target.
    """
    shares = _places(found, target, risk, minimum)
    places = np.fromiter(shares, int)
    chances = binom.sf(hits[places] - 1, found[places], target)
    last, carried = None, 0.0
    for place, chance in zip(places, chances, strict=True):
        carried += shares[place]
        last, carried = (place, carried) if chance <= carried else (last, 0.0)
    return last


def _places(found, target: float, risk: float, minimum: int) -> dict[int, float]:
    """Where in `found` to test, most confident first, and the risk that each place brings."""
    total = found[-1] if len(found) else 0
    for number in range(len(SPARED_ERRORS), 0, -1):  # as many starts as there are decisions for
        spared = SPARED_ERRORS[:number]
        starts = [max(_fewest(errors, target, risk / number), minimum) for errors in spared]
        if starts[-1] <= total:
            break
    counts = [starts[0]]
    while counts[-1] < total:
        counts.append(min(max(counts[-1] + 1, int(counts[-1] * STEP)), total))
    counts = sorted({*counts, *starts})
    shares: dict[int, float] = {}
    for count in counts:
        place = int(np.searchsorted(found, count))  # equal confidences go together
        if place < len(found):
            shares[place] = shares.get(place, 0.0) + starts.count(count) * risk / len(starts)
    return shares


def _fewest(errors: int, target: float, risk: float) -> float:
    """The fewest decisions that, with so many errors, still show a precision above `target`."""
    if target >= 1:
        return np.inf
    return errors + 1 + int(nbinom.isf(risk, errors + 1, 1 - target))
