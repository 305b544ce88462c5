"""The heat of patches by attention that is weighted by the gradient of the answer."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cmaclip_jax.data.pairs import Pair
from cmaclip_jax.models.objectives import Objective
from cmaclip_jax.models.relevance import patch_relevance
from cmaclip_jax.parallel.mesh import batch_sharding
from cmaclip_jax.parallel.rules import tree_shardings
from cmaclip_jax.report.answered_classes import AnsweredClasses, probabilities
from cmaclip_jax.report.explanation import LEAST
from cmaclip_jax.serving.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class GradientHeat:
    """The rule of `models/relevance.py`, at the cost of a few predictions for every answer.

    track: shows the progress, as `Screen.track` does.
    """

    classifier: Classifier
    track: Callable

    def __call__(self, name: str, pair: Pair, asked: AnsweredClasses) -> list[np.ndarray | None]:
        """The heat [P] of each class; None where the probability stays without the picture."""
        whole, blind = probabilities(self.classifier, [pair, Pair(None, pair.text)], asked)
        moved = np.abs(whole - blind) >= LEAST
        batch, _ = self.classifier.read([pair])
        shown = self.track(
            zip(asked, moved, strict=True), what=name, total=len(asked), unit="answers"
        )
        return [self._heat(batch, *some[::2]) if moves else None for some, moves in shown]

    def _heat(self, batch, task: str, place: int) -> np.ndarray:
        """The heat [P] of a class, by its index, for the first pair of a batch."""
        rows, tasks = len(batch["weight"]), self.classifier.tasks
        question = {some.name: np.zeros((rows, len(some.classes)), np.float32) for some in tasks}
        question[task][:, place] = 1
        return self.classifier.outcome(batch | {"question": question}, 1, self._step)["heat"][0]

    @functools.cached_property
    def _step(self) -> Callable:
        trained = self.classifier.trained
        return make_relevance_step(trained.objective, trained.mesh, trained.params)


def make_relevance_step(objective: Objective, mesh: Mesh, param_shapes) -> Callable:
    """`(params, batch) -> {"heat": [B,P]}`, jitted, of the answers in `batch["question"]`.

    question: {task: [B,C]}: 1 for the class that is asked about, 0 elsewhere.
    """

    def relevance(params, batch):
        return {"heat": patch_relevance(objective.model, params, batch, batch["question"])}

    return jax.jit(
        relevance,
        in_shardings=(tree_shardings(param_shapes, mesh), batch_sharding(mesh)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )
