"""Answers of a model: the step that computes them, and the outcome of a whole split.

An outcome is a tree of arrays with one row per example. Its keys:

probabilities, modality_weights, labels: {task: array}.
has_image, has_text, weight: [N].
embeddings: image and text [N,D], of length 1, and tokens [N,T]; of a run without tasks only.
row: the place of the example in its split.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from cmaclip_jax.models.objectives import Batch, Objective
from cmaclip_jax.parallel.mesh import batch_sharding, to_device
from cmaclip_jax.parallel.rules import tree_shardings

Outcome = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """The parts of a run that answering needs, each made once. Only `to_answer` allocates arrays.

    config: of the whole run.
    example: a batch of one row, which gives the shapes of the parameters.
    """

    config: ConfigDict
    mesh: Mesh
    objective: Objective
    example: Batch

    @functools.cached_property
    def parameter_shapes(self) -> Any:
        """The shapes of all parameters, as a tree."""
        return jax.eval_shape(self.objective.init, jax.random.key(0), self.example)

    @functools.cached_property
    def answering_shapes(self) -> Any:
        """The shapes of the parameters, laid out to answer, as a tree."""
        return jax.eval_shape(self.objective.answering_parameters, self.parameter_shapes)

    @functools.cached_property
    def predict_step(self) -> jax.stages.Wrapped:
        """`(params, batch) -> outcome`, jitted over the mesh, for parameters laid out to answer."""
        return make_predict_step(self.objective, self.mesh, self.answering_shapes)

    def to_answer(self, params: Any) -> Any:
        """The parameters as `predict_step` takes them, on their devices."""
        shapes = jax.eval_shape(self.objective.answering_parameters, params)
        return jax.jit(
            self.objective.answering_parameters, out_shardings=tree_shardings(shapes, self.mesh)
        )(params)


def make_predict_step(objective: Objective, mesh: Mesh, param_shapes) -> jax.stages.Wrapped:
    """`(params, batch) -> outcome`, jitted; every host gets the outcome of all rows.

    If noise removes inputs, the outcome has `has_image` and `has_text` from before the noise
    (`had_image` and `had_text` of the batch). So a pair is scored in the same slice as without it.
    """

    def predict(params, batch) -> Outcome:
        labels = {name: batch[name] for name in ("labels", "weight")}
        for name in ("image", "text"):
            labels[f"has_{name}"] = batch.get(f"had_{name}", batch[f"has_{name}"])
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return objective.predict(params, batch) | labels

    return jax.jit(
        predict,
        in_shardings=(tree_shardings(param_shapes, mesh), batch_sharding(mesh)),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )


def collect(predict_step: Callable, params, batches: Iterable, mesh: Mesh) -> Outcome:
    """The outcome of all batches on the host, without the rows that are padding."""
    sharding, parts, first = batch_sharding(mesh), [], 0
    for batch in batches:
        outcome = jax.device_get(predict_step(params, to_device(batch, sharding)))
        real = outcome["weight"] > 0
        part = jax.tree.map(lambda x, real=real: np.asarray(x, np.float32)[real], outcome)
        parts.append(part | {"row": first + np.flatnonzero(real)})
        first += len(real)
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
