"""A trained run as a function: pairs in, an answer for every task out."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cmaclip_jax.data.images import Picture
from cmaclip_jax.data.pairs import Pair, PairReader
from cmaclip_jax.data.python_inputs import list_pictures, list_texts
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.decisions import decided_classes
from cmaclip_jax.evaluation.predictor import Outcome
from cmaclip_jax.evaluation.thresholds import TaskThresholds, run_thresholds
from cmaclip_jax.models.cma_clip import MODALITIES
from cmaclip_jax.parallel.mesh import batch_sharding, shared_rows, to_device
from cmaclip_jax.runs.pushed import local_run
from cmaclip_jax.runs.trained import TrainedRun, open_trained
from cmaclip_jax.tasks import Task
from cmaclip_jax.training.saved_parameters import NEWEST
from cmaclip_jax.training.workdir import saved_config
from cmaclip_jax.weights.hub import HUB_NAME


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to one task about one pair.

    label: the class that the run decides for. Of a many-label task, a tuple of the classes that
        are decided "yes" or accepted.
    probability: of the label; if the run has thresholds, scaled by their temperature.
    accepted: whether the probability reaches the threshold; None if the run has no thresholds.
    weights: the modality weights, {"image": w, "text": w}.
    note: what the pair lacks, or ''.

    Of a many-label task, label, probability and accepted are tuples of the same length. All three
    are None if the model read neither a picture nor words.
    """

    label: str | tuple[str, ...] | None
    probability: float | tuple[float, ...] | None
    accepted: bool | tuple[bool, ...] | None
    weights: dict[str, float]
    note: str = ""


class Classifier:
    """A trained run that answers pairs; `load` makes one.

    thresholds: {task: thresholds}; empty if the run has none.
    """

    def __init__(self, trained: TrainedRun, thresholds: dict[str, TaskThresholds]):
        self.trained = trained
        self.thresholds = thresholds
        self.reader = PairReader(trained.encode)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.trained.tasks

    def predict(
        self,
        images: Iterable[Picture | None] | None = None,
        texts: Iterable[str | None] | None = None,
    ) -> list[dict[str, Answer]]:
        """The answers {task: Answer} to every pair.

        An image is a path, bytes, a PIL image or an array [H,W,3] of 0 to 255 or 0 to 1. Lists,
        arrays and columns of data frames are accepted. A pair may lack its image or its text (None,
        NaN). Without `images`, or without `texts`, all pairs lack it.
        """
        pictures, words = list_pictures(images), list_texts(texts)
        if pictures is not None and words is not None and len(pictures) != len(words):
            raise UserError(
                f"there are {len(pictures)} images and {len(words)} texts; give None for a gap"
            )
        count = len(pictures if pictures is not None else words or ())
        gaps = [None] * count
        pairs = list(map(Pair, pictures or gaps, words or gaps))
        return [answers for part in self.batches(pairs) for answers in part]

    def batches(self, pairs: Sequence[Pair]) -> Iterator[list[dict[str, Answer]]]:
        """The answers to a sequence of pairs, a batch at a time."""
        for start in range(0, len(pairs), self.most):
            yield self.answer(*self.read(pairs[start : start + self.most]))

    @property
    def most(self) -> int:
        """The largest number of pairs in a batch."""
        return self.trained.batch_size

    def read(self, pairs: Sequence[Pair], full: bool = False) -> tuple[dict[str, Any], list[str]]:
        """The pairs as a batch, padded to one of the few compiled sizes, and their notes.

        full: pad to the largest size. The last bits of an answer depend on the size.
        """
        few = (shared_rows(self.trained.mesh, most) for most in (1, 8, 64))
        sizes = [self.most] if full else sorted({*few, self.most})
        return self.reader(pairs, next(size for size in sizes if size >= len(pairs)))

    def answer(self, batch: dict[str, Any], notes: Sequence[str]) -> list[dict[str, Answer]]:
        """The answers to a batch that `read` made."""
        outcome = self.outcome(batch, len(notes))
        columns = {task.name: self._answers(task, outcome, notes) for task in self.tasks}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def outcome(self, batch: dict[str, Any], count: int, step=None) -> Outcome:
        """The outcome of the first `count` rows of a batch. `step` takes the place of `predict`."""
        trained = self.trained
        sharded = to_device(batch, batch_sharding(trained.mesh))
        outcome = jax.device_get((step or trained.predict_step)(trained.params, sharded))
        return jax.tree.map(lambda x: np.asarray(x, np.float32)[:count], outcome)

    def scaled(self, outcome: Outcome, name: str) -> np.ndarray:
        """The probabilities [N,C] of a task as answers show them and thresholds test them."""
        thresholds, probabilities = self.thresholds.get(name), outcome["probabilities"][name]
        return thresholds.scaled(probabilities) if thresholds else probabilities

    def _answers(self, task: Task, outcome: Outcome, notes: Sequence[str]) -> list[Answer]:
        """The answers of one task to all rows."""
        probabilities = outcome["probabilities"][task.name]
        weights = outcome["modality_weights"][task.name]
        thresholds = self.thresholds.get(task.name)
        accepted = (
            thresholds.accepts(probabilities) if thresholds else None
        )  # [N], of many labels [N,C]
        classes = decided_classes(probabilities, task.many)  # [N,C]
        if task.many and accepted is not None:
            classes |= accepted
        scaled = self.scaled(outcome, task.name)
        return [
            _answer(
                task,
                np.flatnonzero(classes[row]),
                scaled[row],
                None if accepted is None else accepted[row],
                weights[row],
                note,
            )
            for row, note in enumerate(notes)
        ]


def _answer(task: Task, classes, probabilities, accepted, weights, note: str) -> Answer:
    """One answer, with these classes as its label.

    probabilities: [C]. accepted: [C] of a many-label task, else a single value.
    """
    shares = dict(zip(MODALITIES, map(float, weights), strict=True))
    if not any(shares.values()):
        return Answer(None, None, None, shares, note)
    labels = tuple(task.classes[i] for i in classes)
    shown = tuple(float(probabilities[i]) for i in classes)
    if task.many:
        marks = None if accepted is None else tuple(bool(accepted[i]) for i in classes)
        return Answer(labels, shown, marks, shares, note)
    return Answer(labels[0], shown[0], None if accepted is None else bool(accepted), shares, note)


def load(workdir: str | Path, checkpoint: str | int = NEWEST) -> Classifier:
    """The trained run at `workdir`, ready to answer.

    workdir: a folder; or ORG/NAME or hf://ORG/NAME@REVISION, a run on the Hugging Face hub that
        `cmaclip push` wrote. ORG/NAME is a folder if there is one.
    checkpoint: 'newest', 'best' or a step.
    """
    if HUB_NAME.fullmatch(str(workdir)) and not Path(workdir).exists():
        workdir = f"hf://{workdir}"
    return open_classifier(local_run(workdir), checkpoint=checkpoint)


def open_classifier(
    workdir: str | Path, devices=None, checkpoint: str | int = NEWEST
) -> Classifier:
    """Like `load`, on these devices."""
    config = saved_config(workdir)
    trained = open_trained(workdir, config, devices=devices, checkpoint=checkpoint)
    if not trained.tasks:
        raise UserError(f"{workdir} has no task to answer; train it anew on data with labels")
    return Classifier(trained, run_thresholds(trained.workdir, trained.step))
