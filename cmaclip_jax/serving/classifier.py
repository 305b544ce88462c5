"""A trained run as a function: pairs in, an answer for every task out."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cmaclip_jax.data.handed import list_pictures, list_texts
from cmaclip_jax.data.images import Picture
from cmaclip_jax.data.pairs import Pair, PairReader
from cmaclip_jax.errors import UserError
from cmaclip_jax.evaluation.curves import scaled
from cmaclip_jax.evaluation.evaluator import Outcome
from cmaclip_jax.evaluation.thresholds import TaskThresholds, run_thresholds
from cmaclip_jax.models.cma_clip import MODALITIES
from cmaclip_jax.parallel.mesh import batch_sharding, shared_rows, to_device
from cmaclip_jax.runs.trained import TrainedRun, open_trained
from cmaclip_jax.tasks import Task
from cmaclip_jax.training.checkpoints import NEWEST
from cmaclip_jax.training.workdir import saved_config

YES = 0.5  # from here a class of a many-label task holds


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a run says to one question about one pair.

    label, probability, accepted: the class; of a many-label task a tuple of those that hold or
        are accepted, and equally long tuples. None where there was nothing to look at, and
        `accepted` also where the run has no thresholds. Where it has, `probability` is at the
        temperature that goes with them, and `accepted` says whether it reaches the threshold.
    weights: what each modality counted for, {"image": w, "text": w}.
    note: what the pair lacked, or ''.
    """

    label: str | tuple[str, ...] | None
    probability: float | tuple[float, ...] | None
    accepted: bool | tuple[bool, ...] | None
    weights: dict[str, float]
    note: str = ""


class Classifier:
    """A run that is ready to be asked; `load` makes one.

    thresholds: by task, what `accepted` goes by; empty where the run has none.
    """

    def __init__(self, trained: TrainedRun, thresholds: dict[str, TaskThresholds]):
        self.trained = trained
        self.thresholds = thresholds
        self._read = PairReader(trained.encode)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.trained.tasks

    def predict(
        self,
        images: Iterable[Picture | None] | None = None,
        texts: Iterable[str | None] | None = None,
    ) -> list[dict[str, Answer]]:
        """For every pair the answers {task: Answer}.

        An image is a path, bytes, a PIL image or an array [H,W,3] of 0 to 255 or 0 to 1. Lists,
        arrays and columns of data frames are taken. Either side of a pair may be absent (None,
        NaN), as may all of one side.
        """
        pictures, words = list_pictures(images), list_texts(texts)
        if pictures is not None and words is not None and len(pictures) != len(words):
            raise UserError(
                f"there are {len(pictures)} images and {len(words)} texts; None fills a gap"
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
        """The largest number of pairs that are answered at once."""
        return self.trained.batch_size

    def read(self, pairs: Sequence[Pair]) -> tuple[dict[str, Any], list[str]]:
        """Pairs as a batch of one of the few sizes that are compiled for, and their notes."""
        few = (shared_rows(self.trained.mesh, most) for most in (1, 8, 64))
        sizes = sorted({*few, self.most})
        return self._read(pairs, next(size for size in sizes if size >= len(pairs)))

    def answer(self, batch: dict[str, Any], notes: Sequence[str]) -> list[dict[str, Answer]]:
        """The answers to a batch that `read` made."""
        outcome = self.outcome(batch, len(notes))
        columns = {task.name: self._answers(task, outcome, notes) for task in self.tasks}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def outcome(self, batch: dict[str, Any], count: int, step=None) -> Outcome:
        """What the model says to the first `count` rows of a batch, by `step` if not `predict`."""
        trained = self.trained
        sharded = to_device(batch, batch_sharding(trained.mesh))
        outcome = jax.device_get((step or trained.predict_step)(trained.params, sharded))
        return jax.tree.map(lambda x: np.asarray(x, np.float32)[:count], outcome)

    def shown(self, outcome: Outcome, name: str) -> np.ndarray:
        """The probabilities [N,C] of a task that answers show, and that thresholds go by."""
        return scaled(self.thresholds.get(name), outcome["probabilities"][name])

    def _answers(self, task: Task, outcome: Outcome, notes: Sequence[str]) -> list[Answer]:
        """One task's answers."""
        said, weights = (outcome[x][task.name] for x in ("probabilities", "modality_weights"))
        shown, thresholds = self.shown(outcome, task.name), self.thresholds.get(task.name)
        accepted = thresholds.accepts(said).tolist() if thresholds else None
        return [
            self._answer(task, said[i], shown[i], weights[i], accepted and accepted[i], note)
            for i, note in enumerate(notes)
        ]

    def _answer(self, task: Task, said, shown, weights, accepted, note: str) -> Answer:
        """One answer: `said` [C] decides and `shown` [C] is shown.

        accepted: of each class, or of the best one.
        """
        shares = dict(zip(MODALITIES, map(float, weights), strict=True))
        if not any(shares.values()):
            return Answer(None, None, None, shares, note)
        if not task.many:
            best = int(said.argmax())
            return Answer(task.classes[best], float(shown[best]), accepted, shares, note)
        stands = [False] * len(said) if accepted is None else accepted
        held = [i for i, stand in enumerate(stands) if stand or said[i] > YES]
        return Answer(
            tuple(task.classes[i] for i in held),
            tuple(float(shown[i]) for i in held),
            None if accepted is None else tuple(stands[i] for i in held),
            shares,
            note,
        )


def load(workdir: str | Path, checkpoint: str | int = NEWEST) -> Classifier:
    """The trained run in a folder, ready to be asked; checkpoint: 'newest', 'best' or a step."""
    return open_classifier(workdir, checkpoint=checkpoint)


def open_classifier(
    workdir: str | Path, devices=None, checkpoint: str | int = NEWEST
) -> Classifier:
    """The same on these devices alone."""
    config = saved_config(workdir)
    trained = open_trained(workdir, config, devices=devices, checkpoint=checkpoint)
    if not trained.tasks:
        raise UserError(f"{workdir} has no task to answer; train it anew on data with labels")
    return Classifier(trained, run_thresholds(trained.workdir, trained.step))
